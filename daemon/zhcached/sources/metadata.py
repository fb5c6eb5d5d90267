"""One metadata request to a hub: bounded in bytes and time, errors signed with the source's name.

All requests of a resolution share one deadline. Who answered after redirects is kept, because a
mirror that redirects to another hub is no second witness.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from zhcached.clock import Clock, SystemClock
from zhcached.errors import (
    AddressRefused,
    RemoteError,
    RemoteInvalid,
    StatusError,
    TransportError,
    UnreachableError,
)
from zhcached.sources.listing import MAX_PAGE_BYTES
from zhcached.transport.address import Origin, joined
from zhcached.transport.dial import AbortedError, Deadline, LateError
from zhcached.transport.http import Credential, Response, Target, Transport
from zhcached.transport.message import Headers

PAUSES_S = (0.5, 1.5)
MAX_ASKED_WAIT_S = 10.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}
T = TypeVar("T")
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
        rest: Waits so many seconds; for tests.
    """

    def __init__(
        self,
        transport: Transport,
        source: str,
        deadline_s: float,
        clock: Clock | None = None,
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rest = rest
        self._transport = transport
        self._source = source
        self._deadline_s = deadline_s
        self._deadline = Deadline(clock or SystemClock(), deadline_s)

    def get(self, url: str, credential: Credential | None = None) -> Answer:
        """Returns what ``url`` answers; see ``read``."""
        return self.read(url, credential, lambda answer: answer)

    def read(self, url: str, credential: Credential | None, meaning: Callable[[Answer], T]) -> T:
        """Returns what ``url`` answers, as ``meaning`` reads it.

        A passing fault is asked about again, twice; an answer that is none, once: a gateway's page
        or half a document may be gone in a moment.

        Raises:
            StatusError: The status is no success.
            TransportError: The way there failed, or the deadline of all requests has passed.
            RemoteInvalid: The answer is malformed or longer than ``MAX_PAGE_BYTES``.
            AddressRefused: It leads where the configuration does not allow.
        """
        was_garbled = False
        for pause_s in PAUSES_S:
            try:
                return meaning(self._ask(url, credential))
            except RemoteInvalid:
                if was_garbled or not self._deadline.has(pause_s):
                    raise
                was_garbled, wait_s = True, pause_s
            except (TransportError, StatusError) as error:
                wait_s = _wait_s(error, pause_s)
                if wait_s is None or not self._deadline.has(wait_s):
                    raise
            self._rest(wait_s)
        return meaning(self._ask(url, credential))

    def _ask(self, url: str, credential: Credential | None) -> Answer:
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
                may_be_packed=headers is None,
            ) as response:
                if not 200 <= response.status < 300:
                    raise self._transport.status_error(response, deadline)
                yield response
        except RemoteError as error:
            error.source = error.source or self._source
            raise


def _wait_s(error: TransportError | StatusError, pause_s: float) -> float | None:
    """Returns how long to wait before asking again, or None if that is of no use. Pure."""
    if isinstance(error, TransportError):
        # Where nobody listens, or time is over, the other sources must not wait for a second try.
        lasting = isinstance(error, (UnreachableError, LateError, AbortedError))
        return None if lasting else pause_s
    if error.status not in _PASSING:
        return None
    asked = error.retry_after_s or 0.0
    return max(pause_s, asked) if asked <= MAX_ASKED_WAIT_S else None


def expect_same_origin(
    url: str, following: str, allowed: tuple[Origin, ...], *, source: str
) -> str:
    """Returns where ``following``, found at ``url``, leads, if that is one of ``allowed``.

    Raises:
        RemoteInvalid: It leads elsewhere, or nowhere: a hub may page through itself only.
    """
    try:
        url = joined(url, following)
        origin = Origin.parse(url)
    except AddressRefused as error:
        raise RemoteInvalid(f"the listing continues nowhere: {error}", source=source) from error
    if origin not in allowed:
        raise RemoteInvalid(f"the listing continues at another place, {origin}", source=source)
    return url
