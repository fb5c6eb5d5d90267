"""What is on its way to one client: a bounded line of frames and the thread that sends them.

Whoever has news for a client only puts it here, so that a client that does not read holds up no
worker. News that later news makes worthless is dropped when much has gathered; a client that lets
results gather is let go.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType

import structlog

from zhcache.protocol import frames, residency

MAX_NEWS = 64
"""Frames that wait; above it the oldest progress is dropped."""

MAX_RESULTS = 64
"""Frames that wait and cannot be dropped, one for each call the client has made of late."""

DRAIN_S = 5.0

log = structlog.get_logger()

_Frame = tuple[residency.Event, list[int]]
_Passing = residency.Step | residency.Queued | residency.Progress


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
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def __enter__(self) -> Outbox:
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
        with self._changed:
            if self._is_over:
                frames.close_all(fds)
                return
            self._waiting.append((event, list(fds)))
            if len(self._waiting) > MAX_NEWS and not self._drop_oldest_news():
                log.warning("outbox.not_read", waiting=len(self._waiting))
                self._is_over = True
                self._clear()
                self._hang_up()
            self._is_over |= is_last
            self._changed.notify_all()

    def _drop_oldest_news(self) -> bool:
        for place, (event, _) in enumerate(self._waiting):
            if isinstance(event, _Passing):
                del self._waiting[place]
                return True
        return len(self._waiting) <= MAX_RESULTS

    def _run(self) -> None:
        try:
            while (frame := self._next()) is not None:
                event, fds = frame
                try:
                    frames.send(self._channel, event, fds)
                finally:
                    frames.close_all(fds)
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
            frames.close_all(self._waiting.popleft()[1])

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
