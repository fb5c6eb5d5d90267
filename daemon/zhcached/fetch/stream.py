"""The bytes of one answer on their way into the ingest: the loop where a download's CPU goes.

Nothing is copied: the socket fills one buffer, the ingest writes and hashes it from there. One
thread per stream; whom it belongs to and what it means for the file is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from zhcached.clock import Clock
from zhcached.config import DownloadConfig
from zhcached.errors import RemoteInvalid, TransportError
from zhcached.fetch.limits import RateLimiter, SlowError, SpeedFloor
from zhcached.fetch.offer import Control, Receiver, Sender
from zhcached.fetch.segments import Segment
from zhcached.transport.response import Response
from zhcached.transport.wire import QuietError

# Fits the second-level cache, so that the hash and the write read what the socket just wrote.
BUFFER_BYTES: Final = 512 * 2**10


@dataclass(frozen=True, slots=True)
class Stream:
    """How bytes of one file are moved, whichever source they come from.

    Attributes:
        ingest: Receives them.
        config: The floor and the stall.
        limiter: Shared by all downloads.
        control: Is told of every piece, and cancels waits for the limiter.
        clock: Gives the present.
    """

    ingest: Receiver
    config: DownloadConfig
    limiter: RateLimiter
    control: Control
    clock: Clock

    def move(
        self,
        response: Response,
        segment: Segment,
        end: int,
        buffer: memoryview,
        *,
        sender: Sender,
        is_wanted: Callable[[], bool],
        least_rate: Callable[[], float],
        arrived: Callable[[int, float], None],
    ) -> None:
        """Moves bytes until the segment or the answer ends, or nobody wants them any more.

        Args:
            response: Stands at the byte ``segment.position`` of the file.
            segment: Its position moves along; another connection may lower its end meanwhile.
            end: Where the answer ends.
            buffer: Used again and again.
            sender: Whose bytes they are.
            is_wanted: Asked before every read.
            least_rate: The floor at this moment, bytes per second.
            arrived: Told how many bytes came, and the monotonic time.

        Raises:
            TransportError: The connection broke, or ended early.
            SlowError: It was below the floor for the whole stall.
            RemoteInvalid: There is more in the body than the answer's head said.
        """
        floor = SpeedFloor(self.config.stall)
        ingest, clock = self.ingest, self.clock
        position = segment.position
        while (left := min(segment.end, end) - position) > 0:
            if not is_wanted():
                return
            began = clock.monotonic()
            try:
                count = response.readinto(buffer[:left])
            except QuietError:
                count = 0
            else:
                if count == 0:
                    raise TransportError(f"the body ended {left} bytes early")
            now = clock.monotonic()
            if floor.is_below(count, now - began, least_rate()):
                raise SlowError(
                    f"less than {self.config.min_rate} bytes/s for {self.config.stall:g} s"
                )
            if count == 0:
                continue
            ingest.write(position, buffer[:count], sender.source)
            position += count
            segment.position = position
            self.control.on_bytes(sender, count)
            arrived(count, now)
            ingest.maybe_sync()
            if self.limiter.bytes_per_s:
                self.limiter.take(count, self.control.cancelled)
        if position == end:
            _check_end(response, buffer)


def _check_end(response: Response, buffer: memoryview) -> None:
    """Reads the end of the body, which makes the connection usable again.

    Raises:
        RemoteInvalid: There is more: the file is another one, or the server confused.
    """
    try:
        count = response.readinto(buffer[:1])
    except (QuietError, TransportError):
        return
    if count:
        raise RemoteInvalid("the body is longer than the range it answers")
