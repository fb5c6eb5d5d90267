"""The ingests of a store: which are open, for whom; who watches a key, what was taken back of it.

One ingest a key is open at a time in the whole daemon.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from zhcache.errors import Busy
from zhcached.store.digest import Promise
from zhcached.store.ingest import Ingest
from zhcached.store.layout import SCRAP, Layout


class Ingests:
    """All ingests, by the keys of their promises. Thread-safe; made by ``Store``.

    ``on_discard`` is called with a key when bytes of it are taken back, before others take their
    place.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._owners: dict[str, str] = {}
        self._open: dict[str, Ingest] = {}
        self._watchers: dict[str, tuple[Callable[[], None], ...]] = {}
        self._discards: Counter[str] = Counter()
        self.on_discard: Callable[[str], object] = lambda _: None

    def take(self, key: str, owner_job: str) -> None:
        """Takes a key for a job, which opens its ingest now, until ``give_back``.

        Raises:
            Busy: Another job has it.
        """
        with self._lock:
            if key in self._owners:
                raise Busy("another job, {job}, is fetching the same file", job=self._owners[key])
            self._owners[key] = owner_job

    def show(self, ingest: Ingest, owner_job: str) -> None:
        """Has an ingest be found by others, unless it has ended meanwhile."""
        with self._lock:
            # One that ended has given its key back.
            if self._owners.get(ingest.key) == owner_job:
                self._open[ingest.key] = ingest
        self.moved(ingest.key)

    def give_back(self, key: str) -> None:
        """The ingest of a key is not open any more."""
        with self._lock:
            self._owners.pop(key, None)
            self._open.pop(key, None)

    def opened(self, key: str) -> Ingest | None:
        """Returns the ingest that is open under a promise's key, whoever opened it."""
        return self._open.get(key)

    def is_active(self, key: str) -> bool:
        """Tells whether an ingest is open."""
        return key in self._owners

    def is_left(self, key: str) -> bool:
        """Tells whether bytes were received under a key that nobody goes on with now."""
        return key not in self._owners and self._layout.ingest(key).exists()

    def unfinished(self) -> list[str]:
        """Returns the keys of the ingests that lie on disk."""
        with os.scandir(self._layout.ingests) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(SCRAP)]

    def room_needed(self, promise: Promise) -> int:
        """Returns how many bytes more the disk must hold to bring these in.

        A partial download has its blocks already, all of them where they were set aside.
        """
        try:
            found = (self._layout.ingest(promise.key) / "data").stat()
        except FileNotFoundError:
            return promise.size
        return max(0, promise.size - found.st_blocks * 512)

    def retire(self, key: str) -> Path | None:
        """Moves an ingest that nobody has open aside in one step, before one can be opened.

        Who was given bytes of it has what others may take the place of.
        """
        with self._lock:
            source = self._layout.ingest(key)
            if key in self._owners or not source.exists():
                return None
            self._discards[key] += 1
            self.on_discard(key)
            return source.rename(self._layout.ingest(f"{SCRAP}{os.getpid()}-{key}"))

    def watch(self, key: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Has ``callback`` called, from any thread, when anything changed under a key.

        Returns:
            Ends it.
        """
        with self._lock:
            self._watchers[key] = (*self._watchers.get(key, ()), callback)

        def end() -> None:
            with self._lock:
                left = tuple(c for c in self._watchers.pop(key, ()) if c is not callback)
                if left:
                    self._watchers[key] = left

        return end

    def moved(self, key: str) -> None:
        """Tells who watches a key that something changed."""
        for callback in self._watchers.get(key, ()):
            callback()

    def discards(self, key: str) -> int:
        """Returns how often bytes that were received under a promise's key were taken back.

        A blob that turns out to be damaged counts under the key of its sha256.
        While it stays the same, whoever read bytes of the key's ingests has what will be proven.
        """
        return self._discards[key]

    def discarded(self, key: str) -> None:
        """Bytes that were received under a key are taken back."""
        with self._lock:
            self._discards[key] += 1
        self.on_discard(key)

    def lost(self, sha256: str) -> None:
        """A blob was damaged: who was given some of it may hold what others do not go with."""
        key = f"sha256-{sha256}"
        self.discarded(key)
        self.moved(key)
