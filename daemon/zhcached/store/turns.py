"""One at a time for each name: who waited finds what the one before has done."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager


class Turns:
    """Locks by name, there while somebody has or awaits them. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, name: str) -> Generator[None]:
        """Waits until nobody else has ``name``, and has it for the block."""
        with self._guard:
            lock, count = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = lock, count + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, count = self._locks[name]
                if count == 1:
                    del self._locks[name]
                else:
                    self._locks[name] = lock, count - 1
