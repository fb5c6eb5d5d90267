"""HTTP exchanges: kept connections, redirects by hand, credentials bound to one origin.

``Transport`` may be used from all threads; a ``Response`` belongs to the thread that opened it.
All that a library or the network can raise leaves here as an error of ``zhcached.errors``.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zhcached.clock import Clock, SystemClock
from zhcached.errors import RemoteError, RemoteInvalid, StatusError, TransportError
from zhcached.transport import local
from zhcached.transport.address import AddressPolicy, Origin, joined, split_url
from zhcached.transport.dial import (
    AbortedError,
    Deadline,
    LateError,
    Resolver,
    dial,
    system_resolver,
)
from zhcached.transport.local import LocalFiles
from zhcached.transport.message import Head, Headers, framing, retry_after_s
from zhcached.transport.pool import Pool
from zhcached.transport.quota import Purpose, Quotas
from zhcached.transport.response import Response, beginning, drain
from zhcached.transport.wire import Body, Wire

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
        return local.ORIGIN if local.is_local(self.url) else Origin.parse(self.url)


class Transport:
    """Opens URLs under one address policy and keeps connections for the next one.

    Args:
        policy: Which addresses may be reached.
        connect_timeout_s: For name, connection and TLS together.
        user_agent: Sent with every request.
        resolver: Name and port to addresses.
        tls: Checks certificates against the system's authorities by default.
        clock: For deadlines and dates.
        quotas: Says where no request may be sent for now; without it nobody does.
        files: What may be read of this machine's own folders.
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
        quotas: Quotas | None = None,
        files: LocalFiles | None = None,
    ) -> None:
        self.policy = policy
        self._connect_timeout_s = connect_timeout_s
        self._user_agent = user_agent
        self._resolver = resolver
        self._tls = tls
        self._clock: Clock = clock or SystemClock()
        self._quotas = quotas
        self._files = files or LocalFiles()
        self._pool = Pool(self._clock)

    def close(self) -> None:
        """Closes every kept connection."""
        self._pool.close()

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
        may_be_packed: bool = False,
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
            may_be_packed: An answer in gzip, though it was not asked for, is taken; only
                ``read_limited`` unpacks it.

        Raises:
            AddressRefused: The target or a redirect leads where the policy does not allow.
            LimitedError: An origin on the way wants no requests now; it was sent none.
            TransportError: The way there failed.
            RemoteInvalid: The answer is no sound HTTP/1.1, is encoded, or redirects for ever.
        """
        common = {"Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": self._user_agent}
        common.update(headers or {})
        url, own, credential = target.url, dict(target.headers), target.credential
        if local.is_local(url):
            # Here alone: what a server redirects to is parsed as an address, and this is none.
            return self._files.open(url, common)
        purpose: Purpose = "bytes" if any(name.lower() == "range" for name in common) else "words"
        head_s = read_timeout_s if head_timeout_s is None else head_timeout_s
        for _ in range(max_redirects + 1):
            origin, path = split_url(url)
            sent = {**common, **own}
            if credential is not None and credential.origin == origin:
                sent[credential.header] = credential.header_value
            request = _request_bytes(method, path, origin, sent)
            try:
                wire, head, body = self._exchange(method, origin, request, head_s, abort, purpose)
            except RemoteError as error:
                error.place = str(origin)
                raise
            response = Response(
                head,
                body,
                url=url,
                origin=origin,
                release=functools.partial(self._pool.give, origin, wire),
                read_timeout_s=read_timeout_s,
            )
            location = head.headers.get("location")
            if head.status not in _REDIRECTS or location is None:
                return _checked(response, may_be_packed=may_be_packed)
            drain(response)
            url = joined(url, location)
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
            body = beginning(response, limit)
        error = StatusError(
            f"{response.origin} answered {response.status}",
            status=response.status,
            retry_after_s=retry_after_s(response.headers, self._clock.wall()),
            headers=response.headers,
            body=body,
        )
        error.place = str(response.origin)
        return error

    def _exchange(
        self,
        method: str,
        origin: Origin,
        request: bytes,
        head_s: float,
        abort: Callable[[], bool] | None,
        purpose: Purpose,
    ) -> tuple[Wire, Head, Body]:
        """Asks, within the origin's budget, and takes in what the answer says of that."""
        self.policy.check_origin(origin)
        if self._quotas is not None:
            self._quotas.admit(origin, purpose)
        wire, head, body = self._send(method, origin, request, head_s, abort)
        if self._quotas is not None:
            self._quotas.learn(origin, purpose, head.status, head.headers)
        return wire, head, body

    def _send(
        self,
        method: str,
        origin: Origin,
        request: bytes,
        head_s: float,
        abort: Callable[[], bool] | None,
    ) -> tuple[Wire, Head, Body]:
        """Sends on a kept connection if one is sound, once more on a new one if it was not."""
        kept = self._pool.take(origin)
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
        sock = dial(origin, self.policy, self._resolver, deadline, self._authorities)
        wire = Wire(sock, self._clock)
        return self._ask(wire, method, request, Deadline(self._clock, head_s, abort))

    def _authorities(self) -> ssl.SSLContext:
        # Reading them takes 50 ms, for the first source that is spoken to over TLS. Where two
        # threads read them at once, either's will do.
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

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


def _request_bytes(method: str, path: str, origin: Origin, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {origin.authority}"]
    for name, value in headers.items():
        if not value.isascii() or any(ord(c) < 0x20 or ord(c) == 0x7F for c in name + value):
            raise ValueError(f"the header {name} has characters no header may have")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _checked(response: Response, *, may_be_packed: bool) -> Response:
    coding = response.headers.get("content-encoding", "identity").lower()
    known = ("identity", "", "gzip") if may_be_packed else ("identity", "")
    if coding not in known and response.status < 400:
        response.close()
        raise RemoteInvalid(
            f"the answer is encoded ({coding[:40]!r}) though identity was asked for"
        )
    return response
