"""What the connections of one file share while it is filled, and when one is no longer wanted.

One lock guards the allotment, the sources' standings and the counters; no I/O is done under it.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from zhcached.clock import Clock
from zhcached.config import DownloadConfig
from zhcached.fetch.allot import Allotment
from zhcached.fetch.limits import RateLimiter
from zhcached.fetch.offer import Control, Receiver
from zhcached.fetch.roster import Standing
from zhcached.fetch.segments import Segment
from zhcached.transport.http import Transport


@dataclass(slots=True)
class Work:
    """One file on its way. ``allotment``, ``is_over`` and ``error`` belong to ``changed``.

    Attributes:
        ingest: Receives the bytes.
        transport: Opens the addresses.
        config: Floor, stall, retries.
        limiter: Shared by all downloads.
        control: Cancels, and is told what happens.
        clock: Gives the present.
        allotment: Who fetches what.
        changed: The lock; notified when anything changes that somebody may wait for.
        is_over: Whatever still runs is left behind and must not write.
        error: The first one that nothing helps against.
    """

    ingest: Receiver
    transport: Transport
    config: DownloadConfig
    limiter: RateLimiter
    control: Control
    clock: Clock
    allotment: Allotment
    changed: threading.Condition = field(default_factory=threading.Condition)
    is_over: bool = False
    error: BaseException | None = None

    @property
    def streaming(self) -> int:
        """How many connections write."""
        return sum(s.streaming for s in self.allotment.roster.standings)

    def is_dismissed(self, segment: Segment) -> bool:
        """Tells whether nobody wants what is still to come of ``segment``. Needs no lock."""
        standing = segment.standing
        return (
            self.is_over
            or self.error is not None
            or self.control.cancelled.is_set()
            or standing.must_restart
            or not standing.seats
            or not segment.left
        )

    @contextmanager
    def entered(self, segment: Segment) -> Generator[bool]:
        """Counts this thread as one that writes, unless nobody wants its bytes any more."""
        standing = segment.standing
        with self.changed:
            is_wanted = not self.is_dismissed(segment)
            standing.streaming += is_wanted
        try:
            yield is_wanted
        finally:
            with self.changed:
                standing.streaming -= is_wanted
                self.changed.notify_all()

    def floor_rate(self, standing: Standing) -> float:
        """Returns the least rate of one connection, in bytes per second.

        The line's rate is shared by this file's connections and capped by our own limit; a
        source that is known to be slow and asked all the same only has to keep moving.
        """
        if standing.is_slow:
            return 0.0
        rate = float(self.config.min_rate)
        if self.limiter.bytes_per_s:
            rate = min(rate, self.limiter.bytes_per_s / (2 * self.config.files))
        return rate / max(1, self.streaming)
