"""Accepting connections to the API: counted for each user, and paused while descriptors lack.

asyncio's own accepting knows no users, and tells a lack of descriptors with a traceback for every
place in the backlog. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable

import msgspec
import structlog

from zhcache.errors import Busy, ZhcacheError
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import ErrorReply
from zhcached.api.listen import BACKLOG
from zhcached.api.peer import of_socket
from zhcached.api.quota import Quota

MAX_CONNECTIONS_PER_UID = 1024
MAX_CONNECTIONS = 4096
BATCH = 64
"""Connections accepted in one turn of the loop, which others wait for."""

PAUSE_S = 1.0
"""Without descriptors nothing is accepted for so long, and that is told once."""

log = structlog.get_logger()


def raise_descriptor_limit() -> int:
    """Raises this process's limit of descriptors as far as it may; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Refused where the hard limit is above what the kernel allows by now.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def quota(descriptors: int) -> Quota:
    """Returns the quota of connections; they leave half of the ``descriptors`` to the work."""
    return Quota(
        "connections",
        min(MAX_CONNECTIONS_PER_UID, descriptors // 4),
        min(MAX_CONNECTIONS, descriptors // 2),
    )


class Acceptor:
    """Accepts what comes to one listener.

    Args:
        listener: Bound; closed by ``stop``.
        factory: Makes the protocol that serves a connection.
        quota: How many connections there may be; shared by all acceptors.
    """

    def __init__(
        self, listener: socket.socket, factory: Callable[[], asyncio.BaseProtocol], quota: Quota
    ) -> None:
        self._listener = listener
        self._factory = factory
        self._quota = quota
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins to accept."""
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._resume()

    def stop(self) -> None:
        """Stops accepting and closes the listener; connections stay."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                channel, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors, most likely. Who waits stays in the backlog, and for as long
                # the listener is readable: the loop would spin.
                log.warning("api.not_accepted", error=str(error))
                self._loop.remove_reader(self._listener)
                self._retry = self._loop.call_later(PAUSE_S, self._resume)
                return
            self._admit(channel)

    def _admit(self, channel: socket.socket) -> None:
        uid = of_socket(channel).uid
        try:
            self._quota.take(uid)
        except Busy as error:
            refuse(channel, error)
            return
        connection = _Counted(self._factory(), lambda: self._quota.leave(uid))
        task = self._loop.create_task(self._serve(channel, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, channel: socket.socket, connection: _Counted) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, channel)
        except BaseException:
            channel.close()
            connection.leave()
            raise


class _Counted(asyncio.Protocol):
    """A connection's protocol, which gives its place back when the connection ends."""

    def __init__(self, inner: asyncio.BaseProtocol, leave: Callable[[], None]) -> None:
        assert isinstance(inner, asyncio.Protocol)
        self._inner = inner
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        """Gives the place back; a second call does nothing."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def refuse(channel: socket.socket, error: ZhcacheError) -> None:
    """Answers whatever will be asked on ``channel`` with ``error``, and closes it."""
    body = msgspec.json.encode(ErrorReply(error=to_info(error)))
    head = (
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    # A few hundred bytes into an empty buffer: nothing here waits.
    with channel, contextlib.suppress(OSError):
        channel.setblocking(False)
        channel.sendall(head.encode() + body)
