"""Filling an ingest from its sources: connections as threads, stretches handed out as they free up.

The calling thread is the first connection; others join while the line is not full, so that a
small file costs no thread. One lock guards the roster, the segments and the counters; no I/O is
done under it. Everything received stays received, whichever source or connection fails.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from zhcache.errors import Cancelled, ZhcacheError
from zhcached.clock import Clock, SystemClock
from zhcached.config import DownloadConfig
from zhcached.errors import RemoteError, StatusError
from zhcached.fetch.answer import Accepted, accept
from zhcached.fetch.limits import RateLimiter, SlowError
from zhcached.fetch.offer import Control, Offer, Receiver, Sender
from zhcached.fetch.ramp import Ramp
from zhcached.fetch.roster import Roster, Standing
from zhcached.fetch.segments import Segment, Segments
from zhcached.fetch.stream import BUFFER_BYTES, Stream
from zhcached.fetch.verdict import Again, OtherSource, Relocate, Restart, Stop, judge
from zhcached.transport.dial import AbortedError
from zhcached.transport.http import Target, Transport
from zhcached.transport.response import Response

READ_SLICE_S: Final = 0.25
MIN_PIECE: Final = 4 * 2**20
MAX_PIECE: Final = 64 * 2**20
PROGRESS_BYTES: Final = 2**20
# A line that breaks off again and again, and is the only one, will end well if it brings this
# much each time.
SOLE_PROGRESS_BYTES: Final = 32 * 2**10
# A source without ranges sends all from the start again; with more than this to lose, another
# source goes first.
MAX_RESENT: Final = 8 * 2**20


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
    filling = _Filling(
        ingest,
        offers,
        transport=transport,
        config=config,
        limiter=limiter,
        control=control,
        clock=clock or SystemClock(),
    )
    try:
        filling.run()
    except ZhcacheError:
        # What came is worth keeping; if the disk is what failed, its first error is the one to see.
        with suppress(ZhcacheError, ValueError):
            ingest.sync()
        raise


class _Filling:
    def __init__(
        self,
        ingest: Receiver,
        offers: Sequence[Offer],
        *,
        transport: Transport,
        config: DownloadConfig,
        limiter: RateLimiter,
        control: Control,
        clock: Clock,
    ) -> None:
        self._ingest = ingest
        self._transport = transport
        self._config = config
        self._limiter = limiter
        self._control = control
        self._clock = clock
        self._roster = Roster(offers)
        self._segments = Segments()
        self._changed = threading.Condition()
        self._streaming = 0
        self._is_over = False
        self._error: BaseException | None = None
        self._ramp = Ramp()
        self._stream = Stream(ingest, config, limiter, control, clock)

    def run(self) -> None:
        try:
            self._work(is_first=True)
        finally:
            with self._changed:
                self._is_over = True
                # Threads that still resolve a name or wait for an answer are left behind: they
                # see that it is over before they would write.
                self._changed.wait_for(lambda: self._streaming == 0)
        if self._error is not None:
            raise self._error

    # Whose turn, which stretch.

    def _work(self, *, is_first: bool) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        try:
            while (task := self._next(is_first)) is not None:
                standing, segment = task
                target = standing.located
                try:
                    self._fetch(standing, segment, buffer)
                except RemoteError as error:
                    self._judge(standing, target, error)
                finally:
                    with self._changed:
                        self._segments.drop(segment)
                        self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again by the first connection
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _next(self, is_first: bool) -> tuple[Standing, Segment] | None:
        """Returns the next stretch and who is to send it; None ends this connection.

        Only the first connection waits: the others end when there is nothing for them to do.
        """
        while True:
            if self._control.cancelled.is_set():
                raise Cancelled("the download was cancelled")
            if is_first:
                self._restart_if_due()
            missing = self._ingest.missing()
            with self._changed:
                if self._error is not None or self._is_over or not missing:
                    return None
                now = self._clock.monotonic()
                standing = self._roster.choose(now)
                wait_s = READ_SLICE_S
                if standing is None:
                    wait_s = self._until_someone_may(now)
                elif standing.hold_until > now:
                    wait_s = standing.hold_until - now
                elif not standing.must_restart and self._has_room(standing):
                    piece = self._piece(standing, missing.total)
                    segment = self._segments.take(missing, piece)
                    if segment is not None:
                        return standing, segment
                if not is_first:
                    return None
                self._changed.wait(min(wait_s, READ_SLICE_S))

    def _restart_if_due(self) -> None:
        """Discards what a changed source had sent, once nobody receives from it any more."""
        with self._changed:
            due = [s for s in self._roster.standings if s.must_restart]
            if not due or self._streaming:
                return
        for standing in due:
            sent = self._ingest.contributions().get(standing.offer.source)
            if sent is not None:
                self._ingest.discard(sent)
        with self._changed:
            for standing in due:
                standing.must_restart = False

    def _until_someone_may(self, now: float) -> float:
        turn = self._roster.next_turn()
        if turn is not None:
            return max(0.0, turn - now)
        raise self._roster.failure()

    def _has_room(self, standing: Standing) -> bool:
        return len(self._segments) < (self._most(standing) if standing.is_ranged else 1)

    def _most(self, standing: Standing) -> int:
        if self._ingest.size < standing.offer.min_segment:
            return 1
        return min(self._config.connections, standing.offer.max_connections)

    def _piece(self, standing: Standing, missing_bytes: int) -> int:
        most = self._most(standing)
        if most == 1 or not standing.is_ranged:
            return self._ingest.size
        return min(MAX_PIECE, max(MIN_PIECE, missing_bytes // (most * 4)))

    def _judge(self, standing: Standing, asked: Target | None, error: RemoteError) -> None:
        if isinstance(error, AbortedError):
            return
        error.source = error.source or standing.offer.source
        sender = Sender(standing.offer.source, error.place or standing.plane)
        with self._changed:
            if self._is_over:
                return
            is_stale = asked is not standing.located and standing.was_relocated
            if is_stale and isinstance(error, StatusError):
                # Another connection has already had the expired address replaced.
                return
            now = self._clock.monotonic()
            has_alternatives = self._roster.has_alternatives(standing, now)
            verdict = judge(
                error,
                standing.failures,
                retries=self._config.retries,
                has_alternatives=has_alternatives,
                was_relocated=standing.was_relocated,
                was_restarted=standing.was_restarted,
                random=random.random,
            )
            self._roster.apply(standing, verdict, error, now)
            self._changed.notify_all()
        self._control.on_fault(sender, error)
        match verdict:
            case Again(wait_s):
                self._control.on_event("retry", sender, f"{error}; again in {wait_s:.1f} s")
            case Relocate():
                self._control.on_event("relocate", sender, str(error))
            case Restart():
                self._control.on_event("changed", sender, str(error))
            case OtherSource():
                kind = "slow" if isinstance(error, SlowError) else "switch"
                if verdict.rest_s:
                    kind = "limited"
                self._control.on_event(kind if has_alternatives else "given up", sender, str(error))
            case Stop():
                raise error

    # One connection.

    def _fetch(self, standing: Standing, segment: Segment, buffer: memoryview) -> None:
        # Fixed here: while the answer is awaited, another connection may take the later half.
        start, end = segment.position, segment.end
        with self._open(standing, start, end) as response:
            answer = self._accept(standing, segment, (start, end), response)
            # A whole file instead of a range has moved the segment.
            start = segment.position
            with self._entered(standing) as is_wanted:
                if is_wanted:
                    try:
                        self._stream.move(
                            response,
                            segment,
                            answer.end,
                            buffer,
                            sender=Sender(standing.offer.source, str(response.origin)),
                            is_wanted=lambda: not self._is_dismissed(standing),
                            least_rate=lambda: self._floor_rate(standing),
                            arrived=partial(self._count, standing, answer),
                        )
                    finally:
                        came = segment.position - start
                        if came >= self._progress_bytes(standing) or not segment.left:
                            standing.progressed()

    def _progress_bytes(self, standing: Standing) -> int:
        with self._changed:
            others = self._roster.has_alternatives(standing, self._clock.monotonic())
        return PROGRESS_BYTES if others else SOLE_PROGRESS_BYTES

    @contextmanager
    def _entered(self, standing: Standing) -> Generator[bool]:
        """Counts this thread as one that writes, unless nobody wants its bytes any more."""
        with self._changed:
            is_wanted = not self._is_dismissed(standing)
            self._streaming += is_wanted
        try:
            yield is_wanted
        finally:
            with self._changed:
                self._streaming -= is_wanted
                self._changed.notify_all()

    def _is_dismissed(self, standing: Standing) -> bool:
        return (
            self._is_over
            or self._error is not None
            or self._control.cancelled.is_set()
            or standing.must_restart
            or not self._roster.is_current(standing)
        )

    def _open(self, standing: Standing, start: int, end: int) -> Response:
        target = standing.located or standing.offer.locate()
        headers = {"Range": f"bytes={start}-{end - 1}"}
        pinned = standing.validators.get(target.origin)
        if pinned is not None and standing.trusts_validators:
            headers["If-Range"] = pinned
        asked_at = self._clock.monotonic()
        response = self._transport.open(
            target,
            headers=headers,
            read_timeout_s=READ_SLICE_S,
            head_timeout_s=self._config.stall,
            abort=lambda: self._is_dismissed(standing),
        )
        standing.plane = str(response.origin)
        waited_s = self._clock.monotonic() - asked_at
        if response.status >= 400 and response.status != 416:
            with response:
                raise self._transport.status_error(response)
        self._control.on_answer(standing.sender, waited_s)
        if response.url != target.url:
            same = response.origin == target.origin
            standing.located = Target(
                response.url,
                target.headers if same else {},
                target.credential if same else None,
            )
        return response

    def _accept(
        self, standing: Standing, segment: Segment, asked: tuple[int, int], response: Response
    ) -> Accepted:
        pinned = standing.validators.get(response.origin) if standing.trusts_validators else None
        answer = accept(
            *asked,
            size=self._ingest.size,
            status=response.status,
            headers=response.headers,
            url=response.url,
            pinned=pinned,
        )
        with self._changed:
            if answer.etag is not None:
                standing.validators.setdefault(response.origin, answer.etag)
            standing.is_ranged |= answer.ranged
            if not answer.ranged:
                self._take_whole(standing, segment, answer)
        return answer

    def _take_whole(self, standing: Standing, segment: Segment, answer: Accepted) -> None:
        """Lets ``segment`` be the whole file; what is there already will be skipped."""
        resent = segment.position
        if not standing.is_ranged and len(self._segments) > 1:
            raise AbortedError("another connection already receives the whole file")
        standing.is_ranged = False
        now = self._clock.monotonic()
        if resent > MAX_RESENT and self._roster.has_alternatives(standing, now):
            standing.rest_until = now + self._config.stall
            raise AbortedError("the source sends no ranges")
        segment.position, segment.end = answer.start, answer.end

    def _floor_rate(self, standing: Standing) -> float:
        """Returns the least rate of one connection, in bytes per second.

        The line's rate is shared by this file's connections and capped by our own limit; a
        source that is known to be slow and asked all the same only has to keep moving.
        """
        if standing.is_slow:
            return 0.0
        rate = float(self._config.min_rate)
        if self._limiter.bytes_per_s:
            rate = min(rate, self._limiter.bytes_per_s / (2 * self._config.files))
        return rate / max(1, self._streaming)

    def _count(self, standing: Standing, answer: Accepted, count: int, now: float) -> None:
        with self._changed:
            joins = self._ramp.wants_more(count, now) and answer.ranged and self._has_room(standing)
        if joins:
            threading.Thread(
                target=self._work, kwargs={"is_first": False}, name="fetch", daemon=True
            ).start()
