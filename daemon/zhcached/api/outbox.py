"""What is on its way to one client: a bounded line of frames and the thread that sends them.

Whoever has news for a client only puts it here, so that a client that does not read holds up no
worker. News that later news makes worthless is dropped when much has gathered; a client that lets
results gather, many or large, is told so and let go.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import msgspec
import structlog

from zhcache.errors import Busy
from zhcache.protocol import frames, residency
from zhcache.protocol.failure import to_info

MAX_NEWS = 64
"""Frames that wait; above it the oldest progress is dropped."""

MAX_RESULTS = 64
"""Frames that wait and cannot be dropped, one for each call the client has made of late."""

MAX_UNREAD = 2**30
"""Bytes of results that wait, words and memory; above it none is taken on. One may be larger."""

SEND_BUFFER = 1
"""Bytes asked for, the kernel's least are had: memory whose descriptors lie in a socket unread
belongs to nobody whom its bytes could be counted for."""

DRAIN_S = 5.0

log = structlog.get_logger()

_Passing = residency.Step | residency.Queued | residency.Progress


@dataclass(frozen=True, slots=True)
class _Frame:
    is_passing: bool
    body: bytes
    fds: list[int]
    size: int


class Outbox:
    """Sends events to one client in order. ``tell`` never blocks.

    Used as a context: leaving it sends what waits, if the client takes it soon, and shuts the
    channel down.

    Args:
        channel: The client's connection; nobody else sends on it.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._waiting: deque[_Frame] = deque()
        self._unread = 0
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def __enter__(self) -> Outbox:
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(DRAIN_S)
        self._hang_up()
        self._thread.join()

    def tell(
        self, event: residency.Event, fds: Sequence[int] = (), *, is_last: bool = False
    ) -> None:
        """Puts an event in line and takes its descriptors over."""
        frame = _frame(event, fds)
        with self._changed:
            if self._is_over:
                frames.close_all(fds)
                return
            is_much = not frame.is_passing and self._unread > MAX_UNREAD
            self._put(frame)
            if is_much or (len(self._waiting) > MAX_NEWS and not self._drop_oldest_news()):
                self._let_go()
            self._is_over |= is_last
            self._changed.notify_all()

    def _put(self, frame: _Frame) -> None:
        self._waiting.append(frame)
        self._unread += frame.size

    def _drop_oldest_news(self) -> bool:
        for place, frame in enumerate(self._waiting):
            if frame.is_passing:
                del self._waiting[place]
                self._unread -= frame.size
                return True
        return len(self._waiting) <= MAX_RESULTS

    def _let_go(self) -> None:
        count, size = len(self._waiting), self._unread
        log.warning("outbox.not_read", waiting=count, bytes=size)
        self._clear()
        error = Busy(
            "{count} answers of {size} bytes together were not read",
            hint="read the answer of each call, or make fewer calls at once on one connection",
            count=count,
            size=size,
        )
        self._put(_frame(residency.Failed(error=to_info(error)), ()))
        self._is_over = True
        # Whoever reads from the client ends with it; what it may still read is sent.
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RD)

    def _run(self) -> None:
        try:
            while (frame := self._next()) is not None:
                try:
                    frames.send_encoded(self._channel, frame.body, frame.fds)
                finally:
                    frames.close_all(frame.fds)
                    with self._changed:
                        self._unread -= frame.size
        except (OSError, ValueError) as error:
            log.info("outbox.dropped", error=str(error))
        finally:
            with self._changed:
                self._is_over = True
                self._clear()
            # Whoever reads from the client on this channel learns from it that all is over.
            self._hang_up()

    def _next(self) -> _Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            return self._waiting.popleft() if self._waiting else None

    def _clear(self) -> None:
        while self._waiting:
            frame = self._waiting.popleft()
            self._unread -= frame.size
            frames.close_all(frame.fds)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)


def _frame(event: residency.Event, fds: Sequence[int]) -> _Frame:
    body = msgspec.json.encode(event)
    size = len(body) + sum(os.fstat(fd).st_size for fd in fds)
    return _Frame(isinstance(event, _Passing), body, list(fds), size)
