"""A file on its way, and those who read it before it is all there.

What came is not proven before all of it is. So the last bytes of a file are withheld until then,
and a reader that was given bytes which were taken back is told so: nobody ever holds a whole file
that was not proven. A reader may look into whatever ingest is open for these bytes, its own pull's
or that of a prefetch; what comes there for a model that is not served it is not shown.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from typing import Self

from zhcache.errors import Busy, IntegrityError, ZhcacheError
from zhcached.clock import Clock
from zhcached.jobs.fetching.wants import Wants
from zhcached.store.digest import Committed, Promise
from zhcached.store.ingest import Ingest
from zhcached.store.store import Store

WITHHELD = 64 * 2**10
"""Bytes at the end of a file that nobody is given before the proof."""


class TakenBackError(IntegrityError):
    """Bytes that a reader was given turned out to be others, or may have."""


class Arrival:
    """One file's way into the store, from the first who asks for it to its end.

    Args:
        store: Where its bytes come in.
        key: Of the promise that its listing makes.
        size: Bytes.
        wants: Told where readers wait.
        clock: The time.
        entitled: Repositories that are served though they are not public.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        size: int,
        *,
        wants: Wants,
        clock: Clock,
        entitled: Collection[str] = (),
    ) -> None:
        self.key = key
        self.size = size
        self.place = store.blobs.path
        self.wants = wants
        self.found: Committed | None = None
        self.error: ZhcacheError | None = None
        self._store = store
        self._ingests = store.ingests
        self._entitled = frozenset(entitled)
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []
        self._readers = 0
        self._idle_since = clock.monotonic()
        self._stop_watching = store.ingests.watch(key, self._moved)

    def read(self) -> Reader:
        """Returns a new reader; whoever asked for it closes it. Waits for nothing."""
        with self._lock:
            self._readers += 1
        return Reader(self)

    def leave(self) -> None:
        """A reader is gone."""
        with self._lock:
            self._readers -= 1
            self._idle_since = self._clock.monotonic()

    def idle_s(self) -> float:
        """Returns for how long nobody has waited for it."""
        with self._lock:
            return 0.0 if self._readers else self._clock.monotonic() - self._idle_since

    def finish(self, found: Committed) -> None:
        """The bytes are a blob."""
        self.found = found
        self._end()

    def fail(self, error: ZhcacheError) -> None:
        """They will not come, now."""
        self.error = error
        self._end()

    def ingest(self) -> Ingest | None:
        """Returns what the bytes come into at the moment, if they may be shown as they come."""
        ingest = self._ingests.opened(self.key)
        return ingest if ingest is not None and ingest.closed <= self._entitled else None

    def discards(self) -> int:
        """Returns how often bytes were taken back."""
        return self._ingests.discards(self.key)

    def once(self, callback: Callable[[], object]) -> None:
        """Has ``callback`` called once, from any thread, when something changed."""
        with self._lock:
            self._waiting.append(callback)

    def _end(self) -> None:
        self._stop_watching()
        self._moved()

    def _moved(self) -> None:
        if not self._waiting:
            return
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


class Beside(Arrival):
    """A file that somebody brings for itself: nothing is begun, nor goes on for who reads it."""

    _promise: Promise | None = None

    def of(self, promise: Promise) -> Self:
        """Has it end with the ingest of a promise, and returns it."""
        self._promise = promise
        self._moved()
        return self

    def _moved(self) -> None:
        promise, is_told = self._promise, self.found is not None or self.error is not None
        if promise is None or is_told or self.ingest() is not None:
            super()._moved()
        elif (found := self._store.presence.find(promise)) is not None:
            self.finish(found)
        else:
            self.fail(Busy("the fetch was stopped", hint="ask again"))


class Reader:
    """One look at a file on its way; made by ``Arrival.read``. For one thread at a time."""

    def __init__(self, arrival: Arrival) -> None:
        self._arrival = arrival
        self._fd = -1
        self._ingest: Ingest | None = None
        self._discards = 0
        self._was_given = False
        self._is_proven = False
        self._waits = False
        self._is_closed = False
        self.once = arrival.once

    @property
    def fd(self) -> int:
        """A descriptor of the bytes that ``available`` spoke of; this reader's own."""
        return self._fd

    def available(self, offset: int) -> int:
        """Returns where the bytes that may be given from ``offset`` on end.

        ``offset`` itself if there are none yet; then this reader waits there.

        Raises:
            TakenBackError: What was given before is not what the file holds.
            ZhcacheError: The file will not come.
        """
        arrival = self._arrival
        if not self._is_proven:
            self._check()
            if arrival.found is not None:
                self._prove(arrival.found)
            elif arrival.error is not None:
                raise arrival.error
        end = arrival.size if self._is_proven else max(offset, self._unproven(offset))
        if not self._is_proven:
            # Once more: what was taken back and came anew since the first look has been counted.
            self._check()
            end = end if self._fd >= 0 else offset
        self._was_given |= end > offset
        self._wait_at(None if end > offset else offset)
        return end

    def close(self) -> None:
        """Ends it; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._wait_at(None)
            self._close_file()
            self._arrival.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._fd < 0 or self._discards == self._arrival.discards():
            return
        if self._was_given:
            raise TakenBackError(
                "the source sent wrong bytes; what came so far is taken back",
                hint="ask for the file again from its start",
            )
        self._close_file()

    def _prove(self, found: Committed) -> None:
        if not self._was_given:
            self._close_file()
            place = self._arrival.place(found.sha256)
            self._fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        elif self._ingest is None or not self._ingest.is_proven:
            raise TakenBackError(
                "the file came another way than what was sent of it so far",
                hint="ask for the file again from its start",
            )
        self._is_proven = True

    def _unproven(self, offset: int) -> int:
        # Counted before the file is opened: what is discarded meanwhile shows in the next check.
        discards = self._arrival.discards()
        ingest = self._arrival.ingest()
        if ingest is None:
            return offset
        if self._fd < 0:
            fd = ingest.reading()
            if fd is None:
                return offset
            self._fd, self._discards = fd, discards
        # Should another ingest have taken the same file up, nothing was taken back in between.
        self._ingest = ingest
        end = ingest.received_from(offset)
        return end if ingest.is_proven else min(end, ingest.size - WITHHELD)

    def _wait_at(self, offset: int | None) -> None:
        arrival = self._arrival
        if offset is not None:
            self._waits = True
            arrival.wants.put(arrival.key, id(self), offset)
        elif self._waits:
            self._waits = False
            arrival.wants.drop(arrival.key, id(self))

    def _close_file(self) -> None:
        self._ingest = None
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
