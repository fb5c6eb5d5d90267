"""Counting what arrives, for people who watch."""

from __future__ import annotations

import threading

from zhcache.protocol.messages import FileProgress
from zhcached.clock import Clock
from zhcached.fetch.offer import Sender
from zhcached.jobs.state import Progress

SHOWN_FILES = 32
RATE_WINDOW_S = 3.0


class _File:
    def __init__(self, path: str, size: int, done: int) -> None:
        self.path = path
        self.size = size
        self.done = done
        self.source = ""


class Meter:
    """One job's counters. ``add`` is called from every connection's thread.

    Args:
        total: Bytes of all files.
        clock: The time.
    """

    def __init__(self, total: int, clock: Clock) -> None:
        self._total = total
        self._clock = clock
        self._lock = threading.Lock()
        self._active: dict[str, _File] = {}
        self._finished = 0
        self._seen: list[tuple[float, int]] = [(clock.monotonic(), 0)]
        self._received = 0
        self.note = ""

    def begin(self, path: str, size: int, done: int) -> None:
        """A file is on its way; ``done`` of its bytes are there from before."""
        with self._lock:
            self._active[path] = _File(path, size, done)

    def add(self, path: str, sender: Sender, count: int) -> None:
        """Bytes of a file came."""
        with self._lock:
            self._received += count
            file = self._active.get(path)
            if file is not None:
                file.done = min(file.done + count, file.size)
                file.source = sender.source

    def restart(self, path: str) -> None:
        """What came of a file was worthless."""
        with self._lock:
            if path in self._active:
                self._active[path].done = 0

    def finish(self, path: str, size: int) -> None:
        """A file is verified and in the store."""
        with self._lock:
            self._active.pop(path, None)
            self._finished += size

    def picture(self) -> Progress:
        """Returns how far the job is."""
        now = self._clock.monotonic()
        with self._lock:
            files = tuple(
                FileProgress(path=f.path, size=f.size, done=f.done, source=f.source)
                for f in list(self._active.values())[:SHOWN_FILES]
            )
            done = self._finished + sum(f.done for f in self._active.values())
            rate = self._rate(now)
        return Progress(
            bytes_done=min(done, self._total),
            bytes_total=self._total,
            rate=rate,
            files=files,
            note=self.note,
        )

    def _rate(self, now: float) -> float:
        self._seen.append((now, self._received))
        while len(self._seen) > 2 and now - self._seen[1][0] > RATE_WINDOW_S:
            self._seen.pop(0)
        (then, before), (_, after) = self._seen[0], self._seen[-1]
        return (after - before) / (now - then) if now > then else 0.0
