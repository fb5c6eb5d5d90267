"""Who brings which bytes in at the moment: one at a time for each ingest of the daemon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STEP_S = 0.2


class Claims:
    """Keys that are taken. Thread-safe."""

    def __init__(self) -> None:
        self._taken: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, key: str, check: Callable[[], None]) -> Iterator[None]:
        """Takes ``key``, once nobody else holds it; ``check`` may raise while this waits."""
        while (other := self._take(key)) is not None:
            while not other.wait(STEP_S):
                check()
        try:
            yield
        finally:
            with self._lock:
                self._taken.pop(key).set()

    def _take(self, key: str) -> threading.Event | None:
        with self._lock:
            other = self._taken.get(key)
            if other is None:
                self._taken[key] = threading.Event()
            return other
