"""What a download is given: where to ask, and how to talk to whoever wants the file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from zhcache.errors import ZhcacheError
from zhcached.config import DownloadConfig
from zhcached.errors import RemoteError, StatusError, TransportError
from zhcached.fetch.limits import RateLimiter
from zhcached.store.ranges import Ranges
from zhcached.transport.http import Target

EventKind = Literal["retry", "switch", "limited", "slow", "relocate", "changed", "given up", "lied"]


class Sender(NamedTuple):
    """Who really sends bytes.

    Attributes:
        source: The name of the source that led there.
        plane: Origin the bytes come from, after redirects; empty while it is not known.
    """

    source: str
    plane: str


def _no_explanation(_error: StatusError) -> ZhcacheError | None:
    return None


class LeftError(TransportError):
    """A feed ended through no fault of its source."""


class Feed(Protocol):
    """Brings a file in an order of its own, where nobody can be asked for a range of it."""

    def __call__(
        self, ingest: Receiver, control: Control, config: DownloadConfig, limiter: RateLimiter
    ) -> None:
        """Brings what is missing, and returns when nothing is.

        Raises:
            RemoteError: It brings no more, or too little; what came stays.
            Cancelled: ``control.cancelled`` was set.
            ZhcacheError: The disk failed.
        """
        ...


def _no_address() -> Target:
    raise TransportError("it has no address")


@dataclass(frozen=True, slots=True)
class Offer:
    """One source's word that it has the file.

    Attributes:
        source: Its name.
        locate: Returns where to ask; called again when a signed address has expired. Raises
            errors of ``zhcached.errors``. Called from several threads.
        max_connections: At most as many at once.
        min_segment: A file shorter than this comes over one connection.
        explain: Returns what a status of this source means for a user, if it means more than
            that the source failed (a gated repository).
        rate: Bytes per second that are expected of it, from what is remembered; None if nothing.
        is_near: Its bytes cost the line to the hubs nothing; while it sends, far ones do not.
        feed: In place of ``locate``: goes before all others, and alone.
    """

    source: str
    locate: Callable[[], Target] = _no_address
    max_connections: int = 8
    min_segment: int = 8 * 2**20
    explain: Callable[[StatusError], ZhcacheError | None] = _no_explanation
    rate: float | None = None
    is_near: bool = False
    feed: Feed | None = None


def _no_bytes(_sender: Sender, _count: int) -> None:
    pass


def _no_event(_kind: EventKind, _sender: Sender, _detail: str) -> None:
    pass


def _no_fault(_sender: Sender, _error: RemoteError) -> None:
    pass


def _no_answer(_sender: Sender, _seconds: float) -> None:
    pass


def unknown(_source: str) -> float | None:
    """Says that nothing is known of what a source gave."""
    return None


def _nowhere() -> Sequence[int]:
    return ()


@dataclass(slots=True)
class Control:
    """The caller's end of a running download. The callbacks come from several threads.

    Attributes:
        cancelled: Set it, and the download ends with ``Cancelled`` within about a second.
        on_bytes: Who sent, and how many bytes came just now.
        on_event: Kind, whom it is about and a text for people.
        wanted: Returns the offsets at which somebody waits for bytes; those are fetched first.
        on_fault: Who failed, and how; told once for each request that did not end well.
        on_answer: Who answered, and after how many seconds its first byte was there.
        lately: Returns what a source gave lately to this machine, in bytes per second.
    """

    cancelled: threading.Event = field(default_factory=threading.Event)
    on_bytes: Callable[[Sender, int], None] = _no_bytes
    on_event: Callable[[EventKind, Sender, str], None] = _no_event
    wanted: Callable[[], Sequence[int]] = _nowhere
    on_fault: Callable[[Sender, RemoteError], None] = _no_fault
    on_answer: Callable[[Sender, float], None] = _no_answer
    lately: Callable[[str], float | None] = unknown


class Receiver(Protocol):
    """What a download writes into: an ingest, or something that looks over its shoulder."""

    size: int

    def missing(self) -> Ranges:
        """Returns what has not been received yet."""
        ...

    def write(self, offset: int, chunk: memoryview | bytes, source: str) -> None:
        """Takes bytes; offsets that are there already are skipped."""
        ...

    def contributions(self) -> dict[str, Ranges]:
        """Returns which source sent which range."""
        ...

    def discard(self, ranges: Ranges | None = None) -> None:
        """Forgets ranges, all of them by default."""
        ...

    def maybe_sync(self) -> None:
        """Makes what came durable if enough has come."""
        ...

    def sync(self) -> None:
        """Makes what came durable."""
        ...
