"""HTTP exchanges: kept connections, redirects by hand, credentials bound to one origin.

``Transport`` may be used from all threads; a ``Response`` belongs to the thread that opened it.
All that a library or the network can raise leaves here as an error of ``zhcached.errors``.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, urljoin

from zhcached.clock import Clock, SystemClock
from zhcached.errors import AddressRefused, RemoteInvalid, StatusError, TransportError
from zhcached.transport.address import AddressPolicy, Origin, split_url
from zhcached.transport.dial import (
    AbortedError,
    Deadline,
    LateError,
    Resolver,
    dial,
    system_resolver,
)
from zhcached.transport.message import Head, Headers, framing, retry_after_s
from zhcached.transport.wire import Body, QuietError, Wire

ERROR_BODY_BYTES = 64 * 2**10
MAX_IDLE_PER_ORIGIN = 16
MAX_IDLE_S = 30.0

_REDIRECTS = {301, 302, 303, 307, 308}
_SECRET_HEADERS = {"authorization", "cookie", "proxy-authorization"}


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret header value for exactly one origin. Its text never shows the value."""

    origin: Origin
    header_value: str = field(repr=False)
    header: str = "Authorization"


@dataclass(frozen=True, slots=True)
class Target:
    """What to ask for. ``headers`` go to the URL's own origin only, as ``credential`` does."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    credential: Credential | None = None

    def __post_init__(self) -> None:
        if secret := _SECRET_HEADERS & {name.lower() for name in self.headers}:
            raise ValueError(f"{secret.pop()} belongs into a Credential")

    @property
    def origin(self) -> Origin:
        """The origin of the URL. Raises ``AddressRefused`` as ``Origin.parse`` does."""
        return Origin.parse(self.url)


class Response:
    """An answer whose body is still to be read. Close it; a finished one keeps its connection.

    Attributes:
        status: The HTTP status.
        headers: By name in any case.
        url: Where the answer came from, after redirects.
        origin: Of that URL.
    """

    def __init__(
        self,
        head: Head,
        body: Body,
        *,
        url: str,
        origin: Origin,
        release: Callable[[bool], None],
        read_timeout_s: float,
    ) -> None:
        self.status = head.status
        self.headers = head.headers
        self.url = url
        self.origin = origin
        self._body = body
        self._release: Callable[[bool], None] | None = release
        self._read_timeout_s = read_timeout_s
        self._keeps_alive = head.keeps_alive

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def readinto(self, buffer: memoryview) -> int:
        """Reads at least one byte of the body into ``buffer``; 0 is its end.

        Raises:
            QuietError: Nothing came for the read time-out; the same call may be made again.
            TransportError: The connection broke before the body's end.
            RemoteInvalid: The chunks are malformed.
        """
        return self._body.readinto(buffer, self._read_timeout_s)

    def read_limited(self, max_bytes: int, deadline: Deadline | None = None) -> bytes:
        """Returns the whole body.

        Raises:
            RemoteInvalid: It is longer than ``max_bytes``.
            TransportError: The connection broke, fell silent, or the deadline passed.
        """
        whole = bytearray()
        piece = bytearray(64 * 2**10)
        while True:
            if deadline is not None:
                deadline.slice_s("reading the answer")
            try:
                count = self.readinto(memoryview(piece))
            except QuietError:
                if deadline is None:
                    raise
                continue
            if count == 0:
                return bytes(whole)
            if len(whole) + count > max_bytes:
                raise RemoteInvalid(f"the answer is longer than {max_bytes} bytes")
            whole += piece[:count]

    def close(self) -> None:
        """Gives the connection back if the body was read to its end, else closes it."""
        release, self._release = self._release, None
        if release is not None:
            release(self._body.is_finished and self._keeps_alive)


class Transport:
    """Opens URLs under one address policy and keeps connections for the next one.

    Args:
        policy: Which addresses may be reached.
        connect_timeout_s: For name, connection and TLS together.
        user_agent: Sent with every request.
        resolver: Name and port to addresses.
        tls: Checks certificates against the system's authorities by default.
        clock: For deadlines and dates.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        connect_timeout_s: float = 10.0,
        user_agent: str = "zhcache",
        resolver: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.policy = policy
        self._connect_timeout_s = connect_timeout_s
        self._user_agent = user_agent
        self._resolver = resolver
        self._tls = tls or ssl.create_default_context()
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[tuple[float, Wire]]] = {}

    def close(self) -> None:
        """Closes every kept connection."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for wires in idle.values():
            for _, wire in wires:
                wire.close()

    def open(
        self,
        target: Target,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        read_timeout_s: float = 30.0,
        head_timeout_s: float | None = None,
        max_redirects: int = 8,
        abort: Callable[[], bool] | None = None,
    ) -> Response:
        """Sends a request, follows redirects, and returns the answer whatever its status.

        Args:
            target: What to ask for.
            method: GET or HEAD.
            headers: Sent to every origin on the way (a range); never a secret.
            read_timeout_s: How long ``readinto`` waits for a byte.
            head_timeout_s: How long each answer's head may take; ``read_timeout_s`` by default.
            max_redirects: After as many the chain is refused.
            abort: Asked every quarter of a second while connecting and waiting.

        Raises:
            AddressRefused: The target or a redirect leads where the policy does not allow.
            TransportError: The way there failed.
            RemoteInvalid: The answer is no sound HTTP/1.1, is encoded, or redirects for ever.
        """
        common = {"Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": self._user_agent}
        common.update(headers or {})
        url, own, credential = target.url, dict(target.headers), target.credential
        head_s = read_timeout_s if head_timeout_s is None else head_timeout_s
        for _ in range(max_redirects + 1):
            origin, path = split_url(url)
            sent = {**common, **own}
            if credential is not None and credential.origin == origin:
                sent[credential.header] = credential.header_value
            request = _request_bytes(method, path, origin, sent)
            wire, head, body = self._exchange(method, origin, request, head_s, abort)
            response = Response(
                head,
                body,
                url=url,
                origin=origin,
                release=self._releaser(origin, wire),
                read_timeout_s=read_timeout_s,
            )
            location = head.headers.get("location")
            if head.status not in _REDIRECTS or location is None:
                return _checked(response)
            _drain(response)
            url = _joined(url, location)
            if Origin.parse(url) != origin:
                # For good: a chain that comes back (A, B, A) was steered by B.
                own, credential = {}, None
        raise RemoteInvalid(f"more than {max_redirects} redirects")

    def fetch_document(
        self, target: Target, *, max_bytes: int, deadline_s: float, method: str = "GET"
    ) -> tuple[Headers, bytes]:
        """Returns headers and body of a small answer, all within ``deadline_s``.

        Raises:
            StatusError: The status is 400 or above, or no success.
            AddressRefused: The policy forbids the address.
            TransportError: The way there failed, or the time is over.
            RemoteInvalid: Malformed, or longer than ``max_bytes``.
        """
        deadline = Deadline(self._clock, deadline_s)
        with self.open(
            target,
            method=method,
            read_timeout_s=0.5,
            head_timeout_s=deadline_s,
            abort=lambda: deadline.slice_s("waiting for the answer") <= 0,
        ) as response:
            if not 200 <= response.status < 300:
                raise self.status_error(response, deadline)
            return response.headers, response.read_limited(max_bytes, deadline)

    def status_error(self, response: Response, deadline: Deadline | None = None) -> StatusError:
        """Returns ``response`` as an error, with the beginning of its body."""
        body = b""
        with contextlib.suppress(TransportError, RemoteInvalid):
            limit = deadline or Deadline(self._clock, 2.0)
            body = _beginning(response, limit)
        return StatusError(
            f"{response.origin} answered {response.status}",
            status=response.status,
            retry_after_s=retry_after_s(response.headers, self._clock.wall()),
            headers=response.headers,
            body=body,
        )

    def _exchange(
        self,
        method: str,
        origin: Origin,
        request: bytes,
        head_s: float,
        abort: Callable[[], bool] | None,
    ) -> tuple[Wire, Head, Body]:
        """Sends on a kept connection if one is sound, once more on a new one if it was not."""
        self.policy.check_origin(origin)
        kept = self._take(origin)
        if kept is not None:
            try:
                return self._ask(kept, method, request, Deadline(self._clock, head_s, abort))
            except (AbortedError, LateError):
                raise
            except (TransportError, RemoteInvalid):
                # A server may close a kept connection just as the request is sent; all that is
                # asked here is safe to ask twice.
                pass
        deadline = Deadline(self._clock, self._connect_timeout_s, abort)
        sock = dial(origin, self.policy, self._resolver, deadline, self._tls)
        wire = Wire(sock, self._clock)
        return self._ask(wire, method, request, Deadline(self._clock, head_s, abort))

    @staticmethod
    def _ask(
        wire: Wire, method: str, request: bytes, deadline: Deadline
    ) -> tuple[Wire, Head, Body]:
        try:
            wire.send(request, deadline)
            head = wire.read_answer(deadline)
            return wire, head, Body(wire, framing(method, head))
        except BaseException:
            wire.close()
            raise

    def _take(self, origin: Origin) -> Wire | None:
        now = self._clock.monotonic()
        while True:
            with self._lock:
                wires = self._idle.get(origin)
                if not wires:
                    return None
                since, wire = wires.pop()
            if now - since < MAX_IDLE_S and wire.is_idle():
                return wire
            wire.close()

    def _releaser(self, origin: Origin, wire: Wire) -> Callable[[bool], None]:
        def release(reusable: bool) -> None:
            if not (reusable and wire.is_idle()):
                wire.close()
                return
            with self._lock:
                wires = self._idle.setdefault(origin, [])
                wires.append((self._clock.monotonic(), wire))
                surplus = wires.pop(0)[1] if len(wires) > MAX_IDLE_PER_ORIGIN else None
            if surplus is not None:
                surplus.close()

        return release


def _request_bytes(method: str, path: str, origin: Origin, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {origin.authority}"]
    for name, value in headers.items():
        if not value.isascii() or any(ord(c) < 0x20 or ord(c) == 0x7F for c in name + value):
            raise ValueError(f"the header {name} has characters no header may have")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _joined(url: str, location: str) -> str:
    """Returns where ``location`` leads from ``url``; raw UTF-8 and spaces in it are escaped."""
    if any(ord(char) < 0x20 or char == "\x7f" for char in location):
        raise AddressRefused("a redirect has control characters in its address")
    escaped = quote(location.encode("latin-1"), safe="!#$%&'()*+,/:;=?@[]~\\^`{|}\"<>")
    return urljoin(url, escaped)


def _checked(response: Response) -> Response:
    coding = response.headers.get("content-encoding", "identity").lower()
    if coding not in ("identity", "") and response.status < 400:
        response.close()
        raise RemoteInvalid(
            f"the answer is encoded ({coding[:40]!r}) though identity was asked for"
        )
    return response


def _drain(response: Response) -> None:
    """Reads a redirect's small body so that its connection can be kept; a large one is cut."""
    buffer = memoryview(bytearray(8 * 2**10))
    with response, contextlib.suppress(TransportError, RemoteInvalid):
        if response.headers.get("content-length", "9").strip() in ("0", ""):
            return
        for _ in range(2):
            if response.readinto(buffer) == 0:
                return


def _beginning(response: Response, deadline: Deadline) -> bytes:
    whole = bytearray()
    piece = memoryview(bytearray(8 * 2**10))
    while len(whole) < ERROR_BODY_BYTES:
        deadline.slice_s("reading the answer")
        try:
            count = response.readinto(piece)
        except QuietError:
            continue
        except TransportError:
            break
        if count == 0:
            break
        whole += piece[:count]
    return bytes(whole[:ERROR_BODY_BYTES])
