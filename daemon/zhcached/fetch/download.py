"""From a promise to a blob: fill, prove, and count who sent what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from zhcached.clock import Clock
from zhcached.config import DownloadConfig
from zhcached.fetch.feeding import feed
from zhcached.fetch.fill import fill
from zhcached.fetch.limits import RateLimiter
from zhcached.fetch.offer import Control, EventKind, Offer, Receiver, Sender
from zhcached.fetch.proof import Proof, Proving
from zhcached.transport.http import Transport

__all__ = ["Control", "EventKind", "Obtained", "Offer", "fill", "obtain"]


@dataclass(frozen=True, slots=True)
class Obtained:
    """A blob that is there now.

    Attributes:
        sha256: Its name.
        git_sha1: The digest git gives it, if it was promised.
        size: In bytes.
        fetched: Bytes received in this call by source, wrong ones included.
        lied: Sources that sent wrong bytes.
    """

    sha256: str
    git_sha1: str | None
    size: int
    fetched: dict[str, int] = field(default_factory=dict[str, int])
    lied: list[str] = field(default_factory=list[str])


def obtain(
    begin: Callable[[], Proving],
    offers: Sequence[Offer],
    *,
    transport: Transport,
    config: DownloadConfig,
    limiter: RateLimiter,
    control: Control,
    clock: Clock | None = None,
) -> Obtained:
    """Brings a file into the store.

    Args:
        begin: Returns the ingest; it is closed here, whatever happens.
        offers: Sources of the file, best first.
        transport: Opens the addresses.
        config: Connections, floor, stall, retries.
        limiter: Shared by all downloads.
        control: Cancels, and is told what happens; ``lied`` names a source that lied.
        clock: For tests.

    Raises:
        IntegrityError: No source sends the promised bytes.
        SourcesFailed: Every source failed, none by lying.
        Cancelled: ``control.cancelled`` was set; what came is kept.
        NoSpace: No room.
        ZhcacheError: The disk failed, or a source refused the file for good.
    """
    counted = _Counted(control)

    def fill_from(receiver: Receiver, chosen: Sequence[Offer]) -> None:
        others = feed(receiver, chosen, config=config, limiter=limiter, control=counted.control)
        if not receiver.missing():
            return
        fill(
            receiver,
            others,
            transport=transport,
            config=config,
            limiter=limiter,
            control=counted.control,
            clock=clock,
        )

    ingest = begin()
    try:
        came = Proof(ingest, offers, fill_from, counted.tell, control.cancelled).run()
    finally:
        ingest.close()
    return Obtained(
        came.committed.sha256,
        came.committed.git_sha1,
        came.committed.size,
        counted.by_source,
        came.lied,
    )


class _Counted:
    """A control like the caller's that also counts bytes by source."""

    def __init__(self, outer: Control) -> None:
        self._lock = threading.Lock()
        self._outer = outer
        self.by_source: dict[str, int] = {}
        self._planes: dict[str, str] = {}
        self.control = replace(outer, on_bytes=self._count)

    def tell(self, kind: EventKind, source: str, detail: str) -> None:
        """Tells of a source by the origin that its last bytes came from."""
        with self._lock:
            sender = Sender(source, self._planes.get(source, ""))
        self._outer.on_event(kind, sender, detail)

    def _count(self, sender: Sender, count: int) -> None:
        with self._lock:
            self.by_source[sender.source] = self.by_source.get(sender.source, 0) + count
            self._planes[sender.source] = sender.plane
        self._outer.on_bytes(sender, count)
