"""Proving a file, and finding out who lied when the proof fails.

The digest is of the whole file, so a wrong one says only that somebody lied. If one source sent
all, it was that one. If several did, the bytes are kept aside and the parts of all but one, the
judge, are fetched again from it. If the proof holds then, whoever had sent other bytes is named.
If it does not, the judge lied: it goes, the others' bytes come back from aside, and only what the
judge had sent is fetched again. Each round removes a source, so liars of any number are found as
long as one source is honest.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zhcache.errors import IntegrityError, SourcesFailed
from zhcached.errors import DigestMismatch
from zhcached.fetch.aside import Aside, Comparison
from zhcached.fetch.offer import EventKind, Offer, Receiver
from zhcached.store.digest import Committed


class Proving(Receiver, Protocol):
    """An ingest, as far as a proof uses it."""

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
class Proven:
    """The blob, and the sources that sent wrong bytes on the way."""

    committed: Committed
    lied: list[str]


Fill = Callable[[Receiver, Sequence[Offer]], None]
Tell = Callable[[EventKind, str, str], None]


class Proof:
    """Rounds of filling and proving, each with fewer suspects than the one before.

    Args:
        ingest: Receives the bytes.
        offers: Sources of the file, best first.
        fill_from: Brings what is missing from some of them.
        tell: Kind, source and a text for people.
        cancelled: Ends the copying of bytes between rounds.
    """

    def __init__(
        self,
        ingest: Proving,
        offers: Sequence[Offer],
        fill_from: Fill,
        tell: Tell,
        cancelled: threading.Event,
    ) -> None:
        self._ingest = ingest
        self._offers = list(offers)
        self._fill_from = fill_from
        self._tell = tell
        self._cancelled = cancelled
        self._lied: list[str] = []
        self._aside: Aside | None = None
        self._judge: Offer | None = None
        self._failed: set[str] = set()
        self._second_chance_is_spent = False

    def run(self) -> Proven:
        """Fills and proves until the bytes are a blob.

        Raises:
            IntegrityError: No source sends the promised bytes.
            SourcesFailed: Every source failed, none by lying.
            ZhcacheError: As ``fill`` and the ingest raise.
        """
        receiver: Receiver = self._ingest
        chosen: Sequence[Offer] = self._offers
        with contextlib.ExitStack() as ending:
            ending.callback(self._forget)
            while True:
                try:
                    self._fill_from(receiver, chosen)
                    committed = self._ingest.commit()
                except DigestMismatch as mismatch:
                    receiver, chosen = self._narrow(mismatch)
                except (SourcesFailed, IntegrityError):
                    if self._judge is None or self._aside is None:
                        raise
                    # The others have failed in nothing yet.
                    self._failed.add(self._judge.source)
                    judge = self._fullest(self._offers)
                    if judge is None:
                        raise
                    receiver, chosen = self._ask(judge, self._aside)
                else:
                    if isinstance(receiver, Comparison):
                        for source in sorted(receiver.differing):
                            self._name_liar(source, "its bytes differ from the proven ones")
                    return Proven(committed, self._lied)

    def _narrow(self, mismatch: DigestMismatch) -> tuple[Receiver, Sequence[Offer]]:
        """Returns who is to fill what next, after wrong bytes came."""
        sent = {s: r for s, r in self._ingest.contributions().items() if r}
        liar, aside = self._judge, self._aside
        if liar is not None and aside is not None and len(self._offers) > 1:
            self._name_liar(liar.source, str(mismatch))
            return self._go_on_without(liar, aside)
        self._forget()
        judge = self._fullest([offer for offer in self._offers if offer.source in sent])
        if len(sent) > 1 and judge is not None:
            old = self._ingest.set_aside()
            if old is None:
                # No room for both: all anew from one, and whether that one lies.
                return self._ingest, [judge]
            self._aside = Aside(old, sent)
            return self._ask(judge, self._aside)
        self._ingest.discard()
        if len(sent) == 1:
            self._refuse(next(iter(sent)), mismatch)
        return self._ingest, self._offers

    def _fullest(self, offers: Sequence[Offer]) -> Offer | None:
        """Returns who is to judge: of those that can be asked the one with least to send anew."""
        sent = self._ingest.contributions() if self._aside is None else self._aside.sent
        able = [offer for offer in offers if offer.source not in self._failed]
        return max(
            able, key=lambda o: sent[o.source].total if o.source in sent else 0, default=None
        )

    def _ask(self, judge: Offer, aside: Aside) -> tuple[Receiver, Sequence[Offer]]:
        """Keeps what ``judge`` sent; the rest comes from it anew and is compared on arrival."""
        self._judge = judge
        self._ingest.discard()
        aside.restore(self._ingest, [judge.source], self._cancelled)
        return Comparison(self._ingest, aside, judge.source), [judge]

    def _go_on_without(self, liar: Offer, aside: Aside) -> tuple[Receiver, Sequence[Offer]]:
        """Keeps what all the others sent; what ``liar`` had sent comes from them."""
        self._judge = None
        self._offers = [offer for offer in self._offers if offer is not liar]
        self._ingest.discard()
        others = [source for source in aside.sent if source != liar.source]
        aside.restore(self._ingest, others, self._cancelled)
        return self._ingest, self._offers

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

    def _forget(self) -> None:
        aside, self._aside, self._judge = self._aside, None, None
        if aside is not None:
            aside.close()
