"""Filling an ingest from its sources: connections as threads, stretches handed out as they free up.

The calling thread is the first connection; others join while the line is not full, so that a
small file costs no thread. No thread belongs to a source: whoever is free asks where there is a
seat. Everything received stays received, whichever source or connection fails.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress

from zhcache.errors import Cancelled, ZhcacheError
from zhcached.clock import Clock, SystemClock
from zhcached.config import DownloadConfig
from zhcached.errors import RemoteError
from zhcached.fetch.allot import Allotment
from zhcached.fetch.connection import READ_SLICE_S, Connection
from zhcached.fetch.limits import RateLimiter
from zhcached.fetch.offer import Control, Offer, Receiver, unknown
from zhcached.fetch.outcome import settle_error
from zhcached.fetch.roster import Standing
from zhcached.fetch.segments import Segment
from zhcached.fetch.work import Work
from zhcached.store.ranges import Ranges
from zhcached.transport.http import Transport


def fill(
    ingest: Receiver,
    offers: Sequence[Offer],
    *,
    transport: Transport,
    config: DownloadConfig,
    limiter: RateLimiter,
    control: Control,
    clock: Clock | None = None,
) -> None:
    """Brings everything ``ingest`` still misses.

    Args:
        ingest: Receives the bytes, from several threads.
        offers: Sources of the file, best first.
        transport: Opens the addresses.
        config: Connections, floor, stall, retries.
        limiter: Shared by all downloads.
        control: Cancels, and is told what happens.
        clock: For tests.

    Raises:
        SourcesFailed: Every source failed; what came is kept and durable.
        IntegrityError: Every source failed, and one of them by sending another file.
        Cancelled: ``control.cancelled`` was set.
        NoSpace: The disk is full.
        ZhcacheError: The disk failed, or a source refused the file for good (gated).
    """
    clock = clock or SystemClock()
    allotment = Allotment(
        offers, size=ingest.size, connections=config.connections, now=clock.monotonic()
    )
    filling = _Filling(Work(ingest, transport, config, limiter, control, clock, allotment))
    try:
        filling.run()
    except ZhcacheError:
        # What came is worth keeping; if the disk is what failed, its first error is the one to see.
        with suppress(ZhcacheError, ValueError):
            ingest.sync()
        raise


class _Filling:
    """The threads of one file."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._threads = 1

    def run(self) -> None:
        work = self._work
        if work.allotment.may_spread:
            # The first source may keep its connection waiting; somebody must see that and go on.
            self._join()
        try:
            self._bring_all()
        finally:
            with work.changed:
                work.is_over = True
                work.changed.notify_all()
                # Threads that still resolve a name or wait for an answer are left behind: they
                # see that it is over before they would write.
                work.changed.wait_for(lambda: work.streaming == 0)
        if work.error is not None:
            raise work.error

    def _bring_all(self) -> None:
        """What every thread does: stretch after stretch until the file is whole."""
        work = self._work
        connection = Connection(work, self._arrived)
        last: Standing | None = None
        try:
            while (segment := self._next(last)) is not None:
                last = segment.standing
                asked = last.located
                try:
                    connection.fetch(segment)
                    self._tell_if_lost(segment)
                except RemoteError as error:
                    settle_error(work, segment, asked, error)
                finally:
                    with work.changed:
                        work.allotment.segments.drop(segment, work.clock.monotonic())
                        work.changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again by the first connection
            with work.changed:
                work.error = work.error or error
                work.changed.notify_all()

    def _next(self, last: Standing | None) -> Segment | None:
        """Waits for a stretch to bring; None when there is nothing left to do."""
        work = self._work
        while True:
            if work.control.cancelled.is_set():
                raise Cancelled("the download was cancelled")
            self._restart_if_due()
            dropped = work.allotment.segments.dropped
            missing, wanted = work.ingest.missing(), work.control.wanted()
            with work.changed:
                if dropped != work.allotment.segments.dropped:
                    # A stretch ended meanwhile: what it brought last would be fetched again.
                    continue
                if work.error is not None or work.is_over or not missing:
                    return None
                now = work.clock.monotonic()
                segment = work.allotment.hand_out(
                    last, missing, wanted, now, takes_silent=not work.limiter.bytes_per_s
                )
                if segment is None:
                    self._wait(now)
            self._settle(missing, wanted)
            if segment is not None:
                return segment

    def _wait(self, now: float) -> None:
        wait_s = self._work.allotment.until_someone_may(now)
        if wait_s is None and not len(self._work.allotment.segments):
            raise self._work.allotment.roster.failure()
        look_s = self._work.allotment.until_settling(now)
        self._work.changed.wait(min(wait_s or READ_SLICE_S, look_s or READ_SLICE_S, READ_SLICE_S))

    def _settle(self, missing: Ranges, wanted: Sequence[int]) -> None:
        """Lets sources join and go, and starts the threads that this takes."""
        work = self._work
        with work.changed:
            seats = work.allotment.seats
            # Under our own limit all are as slow, and that is nobody's fault.
            lately = unknown if work.limiter.bytes_per_s else work.control.lately
            gone = work.allotment.settle(missing, wanted, work.clock.monotonic(), lately)
            if work.allotment.seats > seats:
                work.changed.notify_all()
            joins = min(work.allotment.seats, work.config.connections) > self._threads
        for standing in gone:
            work.control.on_event("slow", standing.sender, "it brings too little beside the others")
        if joins:
            self._join()

    def _join(self) -> None:
        with self._work.changed:
            self._threads += 1
        threading.Thread(target=self._bring_all, name="fetch", daemon=True).start()

    def _restart_if_due(self) -> None:
        """Discards what a changed source had sent, once nobody receives from it any more."""
        work = self._work
        with work.changed:
            standings = work.allotment.roster.standings
            due = [s for s in standings if s.must_restart and not s.running]
            for standing in due:
                # Taken on by this thread: it must not be done twice.
                standing.running += 1
        for standing in due:
            sent = work.ingest.contributions().get(standing.offer.source)
            if sent is not None:
                work.ingest.discard(sent)
        with work.changed:
            for standing in due:
                standing.running -= 1
                standing.must_restart = False

    def _tell_if_lost(self, segment: Segment) -> None:
        if segment.was_lost and not self._work.is_over:
            detail = "it fell silent, and its last stretch was taken over"
            self._work.control.on_event("slow", segment.standing.sender, detail)

    def _arrived(self, segment: Segment, count: int, now: float) -> None:
        work = self._work
        with work.changed:
            if work.allotment.arrived(segment, count, now):
                work.changed.notify_all()
            is_due = not work.allotment.until_settling(now) or work.allotment.seats > self._threads
        if is_due:
            self._settle(work.ingest.missing(), work.control.wanted())
