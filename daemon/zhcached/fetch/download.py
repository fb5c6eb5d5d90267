"""From a promise to a blob: fill, prove, and find out who lied when the proof fails.

The digest is of the whole file, so a wrong one says only that somebody lied. If one source sent
all, it was that one. If several did, the bytes are kept aside and the parts of all but one are
fetched again from that one: if the proof holds then, whoever had sent other bytes is named.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from zhcache.errors import IntegrityError
from zhcached.clock import Clock
from zhcached.config import DownloadConfig
from zhcached.errors import DigestMismatch
from zhcached.fetch.fill import fill
from zhcached.fetch.limits import RateLimiter
from zhcached.fetch.offer import Control, EventKind, Offer, Receiver, Sender
from zhcached.store.digest import Committed
from zhcached.store.ranges import Ranges
from zhcached.transport.http import Transport

__all__ = ["Control", "EventKind", "Obtained", "Offer", "fill", "obtain"]

_COPY_BYTES = 2**20


class Proving(Receiver, Protocol):
    """An ingest, as far as ``obtain`` uses it."""

    def set_aside(self) -> Path | None:
        """Starts over and keeps the bytes so far for comparison, where there is room."""
        ...

    def commit(self) -> Committed:
        """Makes it a blob, or raises ``DigestMismatch`` and keeps it."""
        ...

    def close(self) -> None:
        """Lets go of it; it stays on disk."""
        ...


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
        fill(
            receiver,
            chosen,
            transport=transport,
            config=config,
            limiter=limiter,
            control=counted.control,
            clock=clock,
        )

    ingest = begin()
    try:
        came = _Proof(ingest, list(offers), fill_from, counted).run()
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

    def sender(self, source: str) -> Sender:
        """Returns ``source`` with the origin that its last bytes came from."""
        with self._lock:
            return Sender(source, self._planes.get(source, ""))

    def _count(self, sender: Sender, count: int) -> None:
        with self._lock:
            self.by_source[sender.source] = self.by_source.get(sender.source, 0) + count
            self._planes[sender.source] = sender.plane
        self._outer.on_bytes(sender, count)


@dataclass(frozen=True, slots=True)
class _Proven:
    committed: Committed
    lied: list[str]


class _Proof:
    """Rounds of filling and proving, each with fewer suspects than the one before."""

    def __init__(
        self,
        ingest: Proving,
        offers: list[Offer],
        fill_from: Callable[[Receiver, Sequence[Offer]], None],
        counted: _Counted,
    ) -> None:
        self._ingest = ingest
        self._offers = offers
        self._fill_from = fill_from
        self._counted = counted
        self._lied: list[str] = []
        self._second_chance_is_spent = False

    def run(self) -> _Proven:
        receiver: Receiver = self._ingest
        chosen: Sequence[Offer] = self._offers
        with contextlib.ExitStack() as aside:
            while True:
                self._fill_from(receiver, chosen)
                try:
                    committed = self._ingest.commit()
                except DigestMismatch as mismatch:
                    aside.close()
                    receiver, chosen = self._narrow(mismatch, aside)
                else:
                    if isinstance(receiver, _Comparison):
                        for source in sorted(receiver.differing):
                            self._name_liar(source, "its bytes differ from the proven ones")
                    return _Proven(committed, self._lied)

    def _narrow(
        self, mismatch: DigestMismatch, aside: contextlib.ExitStack
    ) -> tuple[Receiver, Sequence[Offer]]:
        """Returns who is to fill what next, after wrong bytes came."""
        sent = {s: r for s, r in self._ingest.contributions().items() if r}
        if len(sent) > 1 and (judge := self._fullest(sent)) is not None:
            return self._compare(judge, sent, aside), [judge]
        self._ingest.discard()
        if len(sent) == 1:
            self._refuse(next(iter(sent)), mismatch)
        return self._ingest, self._offers

    def _fullest(self, sent: dict[str, Ranges]) -> Offer | None:
        known = [offer for offer in self._offers if offer.source in sent]
        return max(known, key=lambda offer: sent[offer.source].total, default=None)

    def _compare(
        self, judge: Offer, sent: dict[str, Ranges], aside: contextlib.ExitStack
    ) -> Receiver:
        """Keeps what ``judge`` sent; the rest comes from it anew and is compared on arrival."""
        old = self._ingest.set_aside()
        if old is None:
            return self._ingest
        # The descriptor outlives the file, which goes with the ingest when it is committed.
        fd = os.open(old, os.O_RDONLY | os.O_CLOEXEC)
        aside.callback(os.close, fd)
        for start, end in sent[judge.source]:
            for offset, chunk in _chunks(fd, start, end):
                self._ingest.write(offset, chunk, judge.source)
        suspects = {source: ranges for source, ranges in sent.items() if source != judge.source}
        return _Comparison(self._ingest, fd, suspects)

    def _refuse(self, source: str, mismatch: DigestMismatch) -> None:
        others = [offer for offer in self._offers if offer.source != source]
        if not others and not self._second_chance_is_spent:
            # A flipped bit on the way looks the same as a lie, and there is nobody else to ask.
            self._second_chance_is_spent = True
            self._tell("retry", source, f"{mismatch}; once more from the start")
            return
        self._name_liar(source, str(mismatch))
        self._offers = others
        if not others:
            raise IntegrityError(
                "{source} sends wrong bytes: {reason}",
                hint="nothing of it was kept; try another source with --source",
                source=", ".join(self._lied),
                reason=mismatch,
            )

    def _name_liar(self, source: str, reason: str) -> None:
        self._lied.append(source)
        self._tell("lied", source, reason)

    def _tell(self, kind: EventKind, source: str, detail: str) -> None:
        self._counted.control.on_event(kind, self._counted.sender(source), detail)


class _Comparison:
    """An ingest that also compares what arrives with what suspects had sent for it."""

    def __init__(self, ingest: Receiver, fd: int, suspects: dict[str, Ranges]) -> None:
        self.size = ingest.size
        self.missing = ingest.missing
        self.contributions = ingest.contributions
        self.discard = ingest.discard
        self.maybe_sync = ingest.maybe_sync
        self.sync = ingest.sync
        self.differing: set[str] = set()
        self._ingest = ingest
        self._fd = fd
        self._suspects = suspects

    def write(self, offset: int, chunk: memoryview | bytes, source: str) -> None:
        """Takes bytes, after a look at what others had sent in their place."""
        view = memoryview(chunk)
        for suspect, ranges in self._suspects.items():
            if suspect in self.differing:
                continue
            for start, end in ranges:
                low, high = max(start, offset), min(end, offset + len(view))
                if low < high and (
                    memoryview(os.pread(self._fd, high - low, low))
                    != view[low - offset : high - offset]
                ):
                    self.differing.add(suspect)
        self._ingest.write(offset, chunk, source)


def _chunks(fd: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    while start < end:
        chunk = os.pread(fd, min(_COPY_BYTES, end - start), start)
        if not chunk:
            return
        yield start, chunk
        start += len(chunk)
