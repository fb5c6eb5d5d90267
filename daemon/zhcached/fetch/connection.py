"""One connection brings one stretch: asks for it, judges the answer, moves the bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from zhcached.fetch.answer import Accepted, accept
from zhcached.fetch.offer import Sender
from zhcached.fetch.roster import Standing
from zhcached.fetch.segments import Segment
from zhcached.fetch.stream import BUFFER_BYTES, Stream
from zhcached.fetch.work import Work
from zhcached.transport.dial import AbortedError
from zhcached.transport.http import Target
from zhcached.transport.response import Response

READ_SLICE_S: Final = 0.25
# Pieces of a fast stream come thousands of times a second; the common counters need no more than
# this, and their lock is everybody's.
COUNT_EVERY_S: Final = 0.01
PROGRESS_BYTES: Final = 2**20
# A line that breaks off again and again, and is the only one, will end well if it brings this
# much each time, or of a small file such a part.
SOLE_PROGRESS_BYTES: Final = 32 * 2**10
SOLE_PROGRESS_PART: Final = 256
# A source without ranges sends all from the start again; with more than this to lose, another
# source goes first.
MAX_RESENT: Final = 8 * 2**20


class Connection:
    """What one thread does for a file. Belongs to that thread.

    Args:
        work: The file.
        arrived: Told of a stretch's bytes: how many, and the monotonic time.
    """

    def __init__(self, work: Work, arrived: Callable[[Segment, int, float], None]) -> None:
        self._work = work
        self._arrived = arrived
        # Not half a MiB for each of many small files.
        self._uncounted = 0
        self._counted_at = 0.0
        self._buffer = memoryview(bytearray(min(BUFFER_BYTES, max(work.ingest.size, 1))))
        self._stream = Stream(work.ingest, work.config, work.limiter, work.control, work.clock)

    def fetch(self, segment: Segment) -> None:
        """Brings ``segment``, or as much of it as it is let.

        Raises:
            RemoteError: The source failed; what came is kept.
            AbortedError: Nobody wants it any more, which is no fault of the source.
            ZhcacheError: The disk failed.
        """
        standing = segment.standing
        # Fixed here: while the answer is awaited, another connection may take the later part.
        start, end = segment.position, segment.end
        if start >= end:
            return
        with self._open(segment, start, end) as response:
            answer = self._accept(segment, (start, end), response)
            # A whole file instead of a range has moved the segment.
            start = segment.position
            with self._work.entered(segment) as is_wanted:
                if not is_wanted:
                    return
                try:
                    self._stream.move(
                        response,
                        segment,
                        answer.end,
                        self._buffer,
                        sender=Sender(standing.offer.source, str(response.origin)),
                        is_wanted=lambda: not self._work.is_dismissed(segment),
                        least_rate=lambda: self._work.floor_rate(standing),
                        arrived=lambda count, now: self._count(segment, count, now),
                    )
                finally:
                    self._counted_at = 0.0
                    self._count(segment, 0, self._work.clock.monotonic())
                    came = segment.position - start
                    is_done = came and not segment.left and not segment.was_lost
                    if is_done or came >= self._progress_bytes(standing):
                        standing.progressed()

    def _count(self, segment: Segment, count: int, now: float) -> None:
        self._uncounted += count
        if self._uncounted and now - self._counted_at >= COUNT_EVERY_S:
            count, self._uncounted, self._counted_at = self._uncounted, 0, now
            self._arrived(segment, count, now)

    def _progress_bytes(self, standing: Standing) -> int:
        work = self._work
        with work.changed:
            others = work.allotment.roster.has_alternatives(standing, work.clock.monotonic())
        if others:
            return PROGRESS_BYTES
        return min(SOLE_PROGRESS_BYTES, max(1, work.ingest.size // SOLE_PROGRESS_PART))

    def _open(self, segment: Segment, start: int, end: int) -> Response:
        standing, work = segment.standing, self._work
        target = standing.located or standing.offer.locate()
        headers = {"Range": f"bytes={start}-{end - 1}"}
        pinned = standing.validators.get(target.origin)
        if pinned is not None and standing.trusts_validators:
            headers["If-Range"] = pinned
        began = work.clock.monotonic()
        response = work.transport.open(
            target,
            headers=headers,
            read_timeout_s=READ_SLICE_S,
            head_timeout_s=work.config.stall,
            abort=lambda: work.is_dismissed(segment),
        )
        standing.plane = str(response.origin)
        if response.status >= 400 and response.status != 416:
            with response:
                raise work.transport.status_error(response)
        waited_s = work.clock.monotonic() - began
        standing.answered(waited_s)
        work.control.on_answer(standing.sender, waited_s)
        if response.url != target.url:
            same = response.origin == target.origin
            standing.located = Target(
                response.url,
                target.headers if same else {},
                target.credential if same else None,
            )
        return response

    def _accept(self, segment: Segment, asked: tuple[int, int], response: Response) -> Accepted:
        standing = segment.standing
        pinned = standing.validators.get(response.origin) if standing.trusts_validators else None
        answer = accept(
            *asked,
            size=self._work.ingest.size,
            status=response.status,
            headers=response.headers,
            url=response.url,
            pinned=pinned,
        )
        with self._work.changed:
            if answer.etag is not None:
                standing.validators.setdefault(response.origin, answer.etag)
            standing.is_ranged |= answer.ranged
            if not answer.ranged:
                self._take_whole(segment, answer)
        return answer

    def _take_whole(self, segment: Segment, answer: Accepted) -> None:
        """Lets ``segment`` be the whole file; what is there already will be skipped."""
        standing, work = segment.standing, self._work
        now = work.clock.monotonic()
        if not standing.is_ranged and standing.running > 1:
            raise AbortedError("another connection already receives the whole file")
        standing.is_ranged = False
        resent = segment.position
        serve = work.allotment.roster.serving()
        has_others = any(s is not standing for s in serve)
        may_wait = work.allotment.roster.has_alternatives(standing, now)
        if has_others or (resent > MAX_RESENT and may_wait):
            # Others bring the rest without sending anything twice.
            standing.rest_until = now + work.config.stall
            standing.seats = 0
            raise AbortedError("the source sends no ranges")
        segment.position, segment.end = answer.start, answer.end
