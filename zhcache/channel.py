"""The way to the daemon: HTTP over its Unix socket, and the proof of who listens there.

Owns everything that can go wrong between this process and the socket: a path too long for the
kernel, a stale socket, a stranger's socket, an answer that is no answer. Knows no command. httpx
is imported at the first request, since it costs more than all the rest of the client.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from zhcache.errors import (
    DaemonUnreachable,
    NotPermitted,
    VersionMismatch,
    ZhcacheError,
)
from zhcache.paths import SERVICE_SOCKET
from zhcache.protocol.failure import to_error
from zhcache.protocol.messages import ErrorReply, Version
from zhcache.protocol.ready import make_ready
from zhcache.protocol.version import HEADER, PROTOCOL, PROTOCOL_MIN

if TYPE_CHECKING:
    import httpx

MAX_SOCKET_PATH = 107
"""Bytes of a path that fit in ``sockaddr_un``, its closing zero left out. Source: unix(7)."""

CONNECT_S = 5.0
LONG_S = 600.0
"""For what reads a whole store or asks every source before it answers."""

_PEER = struct.Struct("3i")

Reply = TypeVar("Reply")


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yields a name for ``path`` that fits in a socket address, valid inside the block.

    Raises:
        OSError: The folder cannot be opened.
    """
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def dial(path: Path) -> socket.socket:
    """Returns a connection to the socket at ``path``, whose listener is one we trust.

    Raises:
        DaemonUnreachable: Nothing listens there, or the folder is closed to us.
        NotPermitted: A stranger listens there.
    """
    # What comes over it is decoded in whatever thread of a user's asked.
    make_ready()
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.settimeout(CONNECT_S)
        with short_path(path) as name:
            line.connect(name)
        check_peer(line, path)
    except OSError as error:
        line.close()
        raise unreachable(path, error) from error
    except ZhcacheError:
        line.close()
        raise
    return line


def check_peer(line: socket.socket, path: Path) -> None:
    """Checks that who listens at ``path`` is this user, root, or the service's own account.

    Anybody may put a socket into a folder that is open to them; what is typed at it must not
    reach a stranger, nor may a stranger name the folder that weights are loaded from.

    Raises:
        NotPermitted: It is somebody else.
    """
    raw = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, uid, _ = _PEER.unpack(raw)
    trusted = {os.geteuid(), 0}
    if path.parent == SERVICE_SOCKET.parent:
        trusted.add(path.parent.stat().st_uid)
    if uid not in trusted:
        raise NotPermitted(
            "the socket {path} is served by user {uid}, who is neither you nor the service",
            hint="point ZHCACHE_SOCKET at a daemon of your own or of the system",
            path=path,
            uid=uid,
        )


def unreachable(path: Path, error: BaseException) -> DaemonUnreachable:
    """Returns the error that says why nobody could be reached at ``path``."""
    number = getattr(error, "errno", None)
    if number == errno.EACCES:
        return DaemonUnreachable(
            "no permission to open the socket {path}",
            hint="ask the administrator to add you to the zhcache group",
            path=path,
        )
    return DaemonUnreachable(
        "no daemon answers at {path}: {reason}",
        hint="start one with `zhcache daemon start`, or see `zhcache doctor`",
        path=path,
        reason=os.strerror(number) if isinstance(number, int) else str(error) or "no answer",
    )


def _httpx() -> Any:
    """Returns httpx, imported without its command line.

    That brings rich and pygments with it where they are installed: 0.3 s, most of what attaching
    takes, where httpx itself takes 0.02 s. httpx goes on without, as where they are not.
    """
    is_first = "httpx" not in sys.modules
    if is_first:
        left_out: Any = None
        sys.modules["httpx._main"] = left_out
    try:
        # Waits where another thread is importing it just now.
        import httpx
    finally:
        if is_first:
            sys.modules.pop("httpx._main", None)
    return httpx


def check_version(version: Version) -> None:
    """Checks that this client understands what the daemon speaks.

    Raises:
        VersionMismatch: It does not.
    """
    if version.protocol < PROTOCOL_MIN or version.protocol_min > PROTOCOL:
        raise VersionMismatch(
            "the daemon {version} speaks protocol {lowest} to {highest}, this client {spoken}",
            hint="upgrade zhcache in this environment"
            if version.protocol_min > PROTOCOL
            else "upgrade the daemon and restart it: zhcache daemon stop; zhcache daemon start",
            version=version.version,
            lowest=version.protocol_min,
            highest=version.protocol,
            spoken=PROTOCOL,
        )


class Channel:
    """Requests to one daemon. Thread-safe; a forked child opens connections of its own."""

    def __init__(self, path: Path) -> None:
        make_ready()
        self.path = path
        self._http: httpx.Client | None = None
        self._folder = -1
        self._pid = 0

    def close(self) -> None:
        """Closes all connections, leases held over them included."""
        if self._http is not None and self._pid == os.getpid():
            self._http.close()
        if self._folder >= 0:
            os.close(self._folder)
        self._http, self._folder = None, -1

    def call(
        self,
        method: str,
        path: str,
        reply: type[Reply],
        *,
        body: msgspec.Struct | None = None,
        query: dict[str, str] | None = None,
        timeout_s: float | None = 60.0,
    ) -> Reply:
        """Sends a request and returns its answer as a ``reply``.

        Raises:
            ZhcacheError: What the daemon reported; ``DaemonUnreachable`` where it did not answer.
        """
        with self.open(method, path, body=body, query=query, timeout_s=timeout_s) as response:
            with self._border():
                raw = response.read()
            return self._decode(raw, reply)

    def send(
        self, method: str, path: str, *, body: msgspec.Struct | None = None, timeout_s: float = 60.0
    ) -> None:
        """Sends a request whose success has no words.

        Raises:
            ZhcacheError: As ``call``.
        """
        with self.open(method, path, body=body, timeout_s=timeout_s):
            pass

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        body: msgspec.Struct | None = None,
        query: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[httpx.Response]:
        """Yields a successful answer whose body is still to be read.

        Args:
            method: HTTP method.
            path: Path and nothing else.
            body: Sent as JSON.
            query: Added to the path.
            timeout_s: Longest silence on the connection; None waits for ever.

        Raises:
            ZhcacheError: As ``call``.
        """
        httpx = _httpx()
        client = self._client()
        request = client.build_request(
            method,
            path,
            content=msgspec.json.encode(body) if body is not None else None,
            params=query or None,
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
        )
        with self._border():
            response = client.send(request, stream=True)
        try:
            self._check(response)
            yield response
        finally:
            response.close()

    def lines(self, response: httpx.Response, kind: type[Reply]) -> Iterator[Reply]:
        """Yields each line of a streamed answer as a ``kind``; blank lines are keep-alives.

        Raises:
            ZhcacheError: The connection ended in mid-line, or a line is none of ours.
        """
        # httpx's own iter_lines also breaks at U+2028 and the like, which JSON may hold raw.
        rest = b""
        with self._border():
            for chunk in response.iter_bytes():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    if line.strip():
                        yield self._decode(line, kind)
        if rest.strip():
            yield self._decode(rest, kind)

    def _client(self) -> httpx.Client:
        httpx, client = _httpx(), self._http
        if client is None or self._pid != os.getpid():
            # After a fork the parent's connections belong to the parent: sharing them would
            # mix two conversations, so the child forgets them without closing.
            if self._folder < 0 and len(os.fsencode(self.path)) > MAX_SOCKET_PATH:
                self._folder = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY)
            name = f"/proc/self/fd/{self._folder}/{self.path.name}"
            self._http = client = httpx.Client(
                # Nothing here is TLS: certificates need not be read for it.
                transport=httpx.HTTPTransport(
                    uds=name if self._folder >= 0 else str(self.path),
                    verify=False,
                ),
                base_url="http://zhcached",
                headers={HEADER: str(PROTOCOL), "Content-Type": "application/json"},
                trust_env=False,
            )
            self._pid = os.getpid()
        return client

    @contextlib.contextmanager
    def _border(self) -> Iterator[None]:
        httpx = _httpx()
        try:
            yield
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            raise unreachable(self.path, error) from error

    def _check(self, response: httpx.Response) -> None:
        stream: Any = response.extensions.get("network_stream")
        line = stream.get_extra_info("socket") if stream is not None else None
        if line is not None:
            check_peer(line, self.path)
        if response.is_success:
            return
        with self._border():
            raw = response.read()
        try:
            info = msgspec.json.decode(raw, type=ErrorReply).error
        except msgspec.DecodeError:
            raise ZhcacheError(
                "the daemon at {path} answered {status} without saying why",
                hint="see `zhcache logs`",
                path=self.path,
                status=response.status_code,
            ) from None
        raise to_error(info)

    def _decode(self, raw: bytes, kind: type[Reply]) -> Reply:
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.DecodeError as error:
            raise VersionMismatch(
                "the daemon at {path} sent an answer this client cannot read: {reason}",
                hint="bring both to the same version of zhcache",
                path=self.path,
                reason=error,
            ) from error
