"""Connections of the gateway: counted, and served by a handler that tells nothing of itself."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
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

    One address may have three quarters of them, so that others find room beside it. Those that are
    still being opened count: a handshake of TLS takes as long as the client likes, up to
    ``opening_s``.

    Args:
        server: Whose handlers serve them.
        limit: Connections at once.
        opening_s: How long one may take until it is open.
        options: Of the handlers.
    """

    def __init__(self, server: web.Server, limit: int, opening_s: float, **options: Any) -> None:
        self._server = server
        self._limit = limit
        self._each = limit - limit // 4
        self._opening_s = opening_s
        self._options = options
        self._opening: dict[asyncio.Protocol, float] = {}
        self._of: Counter[str] = Counter()
        self.open = 0

    def __call__(self) -> asyncio.Protocol:
        """Returns the protocol of the next one.

        Raises:
            ConnectionRefusedError: There are so many that not even this can be told.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._opening and next(iter(self._opening.values())) < now:
            del self._opening[next(iter(self._opening))]
        count = self.open + len(self._opening)
        if count >= 2 * self._limit:
            raise ConnectionRefusedError("too many connections are being opened")
        inner = None
        if count < self._limit:
            inner = _Handler(self._server, loop=loop, **self._options)
        protocol = _Counted(inner, self)
        self._opening[protocol] = now + self._opening_s
        return protocol

    def opened(self, protocol: asyncio.Protocol) -> None:
        """Counts it no longer among those that are being opened."""
        self._opening.pop(protocol, None)

    def enter(self, address: str) -> bool:
        """Counts an open one; False if there is no room for more of its address."""
        if self._of[address] >= self._each:
            return False
        self._of[address] += 1
        self.open += 1
        return True

    def leave(self, address: str) -> None:
        """One that had entered is gone."""
        self.open -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]


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
    """A connection's protocol that is counted while it is open; without ``inner`` it is refused."""

    def __init__(self, inner: asyncio.Protocol | None, all_of: Connections) -> None:
        self._inner = inner
        self._all = all_of
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._all.opened(self)
        # None of a client that is gone already.
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        if self._inner is not None and self._all.enter(self._address):
            self._inner.connection_made(transport)
        else:
            self._inner = None
            transport.write(_FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner is not None:
            self._all.leave(self._address)
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()
