"""Connecting: resolve, judge every address, try several at once, TLS.

The address that was judged is the one that is connected to: nothing is resolved twice, so a name
that answers differently the second time gains nothing. No proxy is taken from the environment.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest

from zhcached.clock import Clock
from zhcached.errors import (
    AddressRefused,
    NoAddressError,
    TlsError,
    TransportError,
    UnreachableError,
)
from zhcached.transport.address import Address, AddressPolicy, Origin, literal

Resolver = Callable[[str, int], Sequence[str]]

# RFC 8305: how long one address may keep silent before the next is tried beside it. Many campus
# networks announce IPv6 and drop it.
HEAD_START_S = 0.3
SLICE_S = 0.25


class AbortedError(TransportError):
    """The caller no longer wants what was being opened."""


class LateError(TransportError):
    """A deadline passed."""

    fault = "timeout"


class Deadline:
    """A moment by which something must be done, that can also be called off.

    Args:
        clock: Gives the present.
        seconds: From now.
        abort: Asked now and then; true ends every wait with ``AbortedError``.
    """

    def __init__(
        self, clock: Clock, seconds: float, abort: Callable[[], bool] | None = None
    ) -> None:
        self._clock = clock
        self._end = clock.monotonic() + seconds
        self._abort = abort

    def slice_s(self, what: str) -> float:
        """Returns how long the next wait may last, at most ``SLICE_S``.

        Raises:
            LateError: The time is over; ``what`` says what did not happen.
            AbortedError: It was called off.
        """
        if self._abort is not None and self._abort():
            raise AbortedError("called off")
        left = self._end - self._clock.monotonic()
        if left <= 0:
            raise LateError(f"{what}: no answer in time")
        return min(left, SLICE_S)

    def has(self, seconds: float) -> bool:
        """Tells whether so much time is left."""
        return self._end - self._clock.monotonic() > seconds


def system_resolver(host: str, port: int) -> Sequence[str]:
    """Returns the addresses of ``host`` in the order the system prefers.

    Raises:
        TransportError: The name does not resolve.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NoAddressError(f"{host} does not resolve: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def dial(
    origin: Origin,
    policy: AddressPolicy,
    resolver: Resolver,
    deadline: Deadline,
    tls: Callable[[], ssl.SSLContext],
) -> socket.socket:
    """Returns a connected socket for ``origin``, TLS done where its scheme asks for it.

    Raises:
        AddressRefused: The origin, or every address it has, is not allowed.
        TransportError: No address answers in time, or the certificate is not the host's.
    """
    policy.check_origin(origin)
    sock = _race(origin, _permitted(origin, policy, resolver), deadline)
    try:
        if origin.scheme == "https":
            sock = _secure(sock, origin, deadline, tls())
    except BaseException:
        sock.close()
        raise
    return sock


def _permitted(origin: Origin, policy: AddressPolicy, resolver: Resolver) -> list[Address]:
    own = literal(origin.host)
    texts = [str(own)] if own is not None else resolver(origin.host, origin.port)
    allowed: list[Address] = []
    refused: AddressRefused | None = None
    for text in texts:
        address = ipaddress.ip_address(text)
        try:
            policy.check_address(origin, address)
        except AddressRefused as error:
            refused = error
        else:
            allowed.append(address)
    if refused is not None and not allowed:
        raise refused
    if not allowed:
        raise NoAddressError(f"{origin.host} has no address")
    return _interleaved(allowed)


def _interleaved(addresses: Sequence[Address]) -> list[Address]:
    first = [a for a in addresses if a.version == addresses[0].version]
    other = [a for a in addresses if a.version != addresses[0].version]
    return [a for a in chain.from_iterable(zip_longest(first, other)) if a is not None]


def _race(origin: Origin, addresses: list[Address], deadline: Deadline) -> socket.socket:
    """Connects to the first address that answers; later ones start while earlier keep silent."""
    waiting = list(addresses)
    running: dict[int, socket.socket] = {}
    poll = select.poll()
    failures: list[str] = []
    try:
        while waiting or running:
            if waiting:
                try:
                    sock = _begin(waiting.pop(0), origin.port)
                except OSError as error:
                    failures.append(error.strerror or str(error))
                    continue
                running[sock.fileno()] = sock
                poll.register(sock, select.POLLOUT)
            wait_s = deadline.slice_s(f"connecting to {origin}")
            for fd, _ in poll.poll((HEAD_START_S if waiting else wait_s) * 1000):
                poll.unregister(fd)
                sock = running.pop(fd)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return sock
                sock.close()
                failures.append(os.strerror(code))
    finally:
        for sock in running.values():
            sock.close()
    raise UnreachableError(f"connecting to {origin}: {', '.join(dict.fromkeys(failures))}")


def _begin(address: Address, port: int) -> socket.socket:
    """Returns a socket that is connecting.

    Raises:
        OSError: This address cannot be tried: its family is off, no route, no descriptor left.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex((str(address), port))
    except BaseException:
        sock.close()
        raise
    if code in (0, errno.EINPROGRESS):
        return sock
    sock.close()
    raise OSError(code, os.strerror(code))


def _secure(
    sock: socket.socket, origin: Origin, deadline: Deadline, tls: ssl.SSLContext
) -> ssl.SSLSocket:
    try:
        secured = tls.wrap_socket(sock, server_hostname=origin.host, do_handshake_on_connect=False)
    except (OSError, ValueError) as error:
        raise TlsError(f"TLS with {origin}: {error}") from error
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            wanted = select.POLLIN
        except ssl.SSLWantWriteError:
            wanted = select.POLLOUT
        except (OSError, ValueError) as error:
            secured.close()
            raise TlsError(f"TLS with {origin}: {error}") from error
        else:
            return secured
        try:
            await_ready(secured, wanted, deadline.slice_s(f"TLS with {origin}"))
        except BaseException:
            secured.close()
            raise


def await_ready(sock: socket.socket, events: int, wait_s: float) -> bool:
    """Waits until ``sock`` is ready for one of the poll ``events``; tells whether it is."""
    poll = select.poll()
    poll.register(sock, events)
    return bool(poll.poll(wait_s * 1000))
