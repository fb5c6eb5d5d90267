"""One metadata request to a hub: bounded in bytes and time, errors signed with the source's name.

All requests of a resolution share one deadline. Who answered after redirects is kept, because a
mirror that redirects to another hub is no second witness.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from zhcached.clock import Clock, SystemClock
from zhcached.errors import AddressRefused, RemoteError, RemoteInvalid
from zhcached.sources.listing import MAX_PAGE_BYTES
from zhcached.transport.address import Origin
from zhcached.transport.dial import Deadline
from zhcached.transport.http import Credential, Response, Target, Transport
from zhcached.transport.message import Headers

_READ_SLICE_S = 0.5
"""How long one read may wait before the deadline is looked at again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer, read whole."""

    headers: Headers
    body: bytes
    origin: Origin


class Conversation:
    """The requests of one resolution.

    Args:
        transport: How to get there.
        source: Name of the source, put on every error.
        deadline_s: Seconds for all requests together.
        clock: For the deadline.
    """

    def __init__(
        self, transport: Transport, source: str, deadline_s: float, clock: Clock | None = None
    ) -> None:
        self._transport = transport
        self._source = source
        self._deadline_s = deadline_s
        self._deadline = Deadline(clock or SystemClock(), deadline_s)

    def get(self, url: str, credential: Credential | None = None) -> Answer:
        """Returns what ``url`` answers.

        Raises:
            StatusError: The status is no success.
            TransportError: The way there failed, or the deadline of all requests has passed.
            RemoteInvalid: The answer is malformed or longer than ``MAX_PAGE_BYTES``.
            AddressRefused: It leads where the configuration does not allow.
        """
        with self._open(url, credential) as response:
            body = response.read_limited(MAX_PAGE_BYTES, self._deadline)
            return Answer(response.headers, body, response.origin)

    def probe(self, url: str, credential: Credential | None = None) -> None:
        """Asks for the first byte of ``url`` and reads nothing.

        Raises:
            StatusError: It would not be sent.
            TransportError: As ``get``.
            RemoteInvalid: As ``get``.
            AddressRefused: As ``get``.
        """
        with self._open(url, credential, {"Range": "bytes=0-0"}):
            pass

    @contextlib.contextmanager
    def _open(
        self, url: str, credential: Credential | None, headers: Mapping[str, str] | None = None
    ) -> Generator[Response]:
        deadline = self._deadline
        try:
            deadline.slice_s("waiting for the answer")
            with self._transport.open(
                Target(url, credential=credential),
                headers=headers,
                read_timeout_s=_READ_SLICE_S,
                head_timeout_s=self._deadline_s,
                abort=lambda: deadline.slice_s("waiting for the answer") <= 0,
            ) as response:
                if not 200 <= response.status < 300:
                    raise self._transport.status_error(response, deadline)
                yield response
        except RemoteError as error:
            error.source = error.source or self._source
            raise


def expect_same_origin(url: str, allowed: tuple[Origin, ...], *, source: str) -> str:
    """Returns ``url`` if it leads to one of ``allowed``.

    Raises:
        RemoteInvalid: It leads elsewhere, or nowhere: a hub may page through itself only.
    """
    try:
        origin = Origin.parse(url)
    except AddressRefused as error:
        raise RemoteInvalid(f"the listing continues nowhere: {error}", source=source) from error
    if origin not in allowed:
        raise RemoteInvalid(f"the listing continues at another place, {origin}", source=source)
    return url
