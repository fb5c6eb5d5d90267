"""Connections of the gateway: counted, and served by a handler that tells nothing of itself."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from zhcache.errors import Busy, NotPermitted, UsageError

SERVER = "zhcache"
BACKLOG = 512
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: zhcache\r\nRetry-After: 5\r\n"
    b"X-Error-Message: the gateway has no room for more connections\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


def parse_listen(text: str) -> tuple[str, int]:
    """Returns host and port of ``HOST:PORT``, ``:PORT`` or ``[HOST]:PORT``.

    Raises:
        UsageError: It is none of these.
    """
    host, colon, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    is_number = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536
    if not colon or not is_number or (":" in host and not text.strip().startswith("[")):
        raise UsageError(
            "{listen} is not an address to listen on",
            hint="write HOST:PORT, such as 127.0.0.1:8590 or 0.0.0.0:8590",
            listen=text[:80],
        )
    return host or "0.0.0.0", int(port)  # noqa: S104 - asked for by leaving the host out


def bind(host: str, port: int, stall_s: float) -> socket.socket:
    """Returns a listening socket, whose connections end when their client reads nothing.

    Raises:
        Busy: Another program has the port.
        NotPermitted: The port takes privileges.
        UsageError: There is no such address here.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise UsageError(
            "{address} is no address of this machine: {reason}", address=address, reason=error
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The kernel ends a connection with bytes that nobody takes; accepted ones inherit this.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_s * 1000))
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _refusal(error, address) from error
    listener.setblocking(False)
    return listener


def _refusal(error: OSError, address: str) -> Busy | NotPermitted | UsageError:
    if error.errno == errno.EADDRINUSE:
        return Busy(
            "another program listens on {address}",
            hint="choose another port: zhcache serve --listen HOST:PORT",
            address=address,
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(
            "{address} may not be listened on: {reason}",
            hint="choose a port above 1023: zhcache serve --listen HOST:PORT",
            address=address,
            reason=error.strerror,
        )
    return UsageError(
        "{address} is no address of this machine: {reason}", address=address, reason=error.strerror
    )


class Connections:
    """Makes the protocol of each connection.

    Args:
        server: Whose handlers serve them.
        limit: Connections at once.
        options: Of the handlers.
    """

    def __init__(self, server: web.Server, limit: int, **options: Any) -> None:
        self._server = server
        self._limit = limit
        self._options = options
        self.open = 0

    def __call__(self) -> asyncio.Protocol:
        """Returns the protocol of the next one."""
        if self.open >= self._limit:
            return _Full()
        loop = asyncio.get_running_loop()
        handler = _Handler(self._server, loop=loop, **self._options)
        return _Counted(handler, self._count)

    def _count(self, change: int) -> None:
        self.open += change


class _Full(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_FULL)
        transport.close()


class _Handler(RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what is no request, in few words; nothing of it is logged, not even by aiohttp.

        It may hold a token.
        """
        del exc, message
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        response = web.Response(status=status, headers={"Server": SERVER})
        response.force_close()
        return response


class _Counted(asyncio.Protocol):
    """A connection's protocol that counts while it is open."""

    def __init__(self, inner: asyncio.Protocol, count: Callable[[int], None]) -> None:
        self._inner = inner
        self._count = count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._count(1)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._count(-1)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
