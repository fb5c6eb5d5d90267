"""Where readers of files that are on their way wait: those bytes are fetched first."""

from __future__ import annotations

import threading
from collections.abc import Sequence


class Wants:
    """Offsets at which readers wait, by the key of the ingest. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offsets: dict[str, dict[int, int]] = {}

    def put(self, key: str, reader: int, offset: int) -> None:
        """A reader waits at ``offset``, and no more where it waited before."""
        with self._lock:
            self._offsets.setdefault(key, {})[reader] = offset

    def drop(self, key: str, reader: int) -> None:
        """A reader waits no more."""
        with self._lock:
            waiting = self._offsets.get(key, {})
            waiting.pop(reader, None)
            if not waiting:
                self._offsets.pop(key, None)

    def of(self, key: str) -> Sequence[int]:
        """Returns where readers wait, each offset once, in order."""
        if key not in self._offsets:
            return ()
        with self._lock:
            return sorted(set(self._offsets.get(key, {}).values()))
