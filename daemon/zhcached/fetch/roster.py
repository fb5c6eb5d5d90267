"""The sources of one file, and whose turn it is. Pure; the caller holds the lock.

One source sends at a time. It stays until a verdict says otherwise: what it has sent warms its
connections and its address, and a file from two mirrors in turn is no faster than from the better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from zhcache.errors import IntegrityError, SourcesFailed, ZhcacheError
from zhcached.errors import RepoUnavailable, StatusError
from zhcached.fetch.limits import SlowError
from zhcached.fetch.offer import Offer, Sender
from zhcached.fetch.verdict import Again, OtherSource, Relocate, Restart, Stop, Verdict
from zhcached.transport.address import Origin
from zhcached.transport.dial import LateError
from zhcached.transport.http import Target


@dataclass(slots=True, eq=False)
class Standing:
    """How one source stands with this file.

    Attributes:
        offer: Its offer.
        located: Where its redirects led: asked directly from then on, so that a hub's request
            quota is not spent on every range. None before, and after that address expired.
        plane: Origin that answered last; empty before.
        validators: Strong ETag of the file by origin.
        failures: Since it last made progress.
        is_ranged: It answers ranges with ranges.
        is_slow: It fell below the floor; asked again only after all others.
        trusts_validators: False once they have changed twice; the digest alone decides then.
        must_restart: What it sent is to be discarded before it is asked again.
        out: Why it is asked no more; None while it may be.
        hold_until: Monotonic time before which it is not asked, though it keeps its turn.
        rest_until: Monotonic time before which others have their turn.
    """

    offer: Offer
    located: Target | None = None
    plane: str = ""
    validators: dict[Origin, str] = field(default_factory=dict[Origin, str])
    failures: int = 0
    is_ranged: bool = True
    is_slow: bool = False
    was_relocated: bool = False
    was_restarted: bool = False
    trusts_validators: bool = True
    must_restart: bool = False
    lied: bool = False
    out: BaseException | None = None
    hold_until: float = 0.0
    rest_until: float = 0.0

    @property
    def sender(self) -> Sender:
        """Who sent last, or will send."""
        return Sender(self.offer.source, self.plane)

    def progressed(self) -> None:
        """Forgets failures: it has sent something worth a request."""
        self.failures = 0
        self.was_relocated = False


class Roster:
    """Whose turn it is.

    Args:
        offers: Best first; no source twice.
    """

    def __init__(self, offers: Sequence[Offer]) -> None:
        self.standings = [Standing(offer) for offer in offers]
        self._current: Standing | None = None

    def choose(self, now: float) -> Standing | None:
        """Returns whose turn it is; None if nobody may be asked now."""
        current = self._current
        if current is None or current.out is not None or current.rest_until > now:
            able = [s for s in self.standings if s.out is None and s.rest_until <= now]
            self._current = min(able, key=lambda s: s.is_slow, default=None)
        return self._current

    def is_current(self, standing: Standing) -> bool:
        """Tells whether ``standing`` still has its turn, as of the last choice or verdict."""
        return self._current is standing

    def has_alternatives(self, standing: Standing, now: float) -> bool:
        """Tells whether another source could take over from ``standing`` now."""
        return any(
            s is not standing and s.out is None and not s.is_slow and s.rest_until <= now
            for s in self.standings
        )

    def next_turn(self) -> float | None:
        """Returns when a resting source may be asked again; None if all are out."""
        return min((s.rest_until for s in self.standings if s.out is None), default=None)

    def apply(self, standing: Standing, verdict: Verdict, error: BaseException, now: float) -> None:
        """Records what ``verdict`` says about ``standing``."""
        match verdict:
            case Again(wait_s):
                standing.failures += 1
                standing.hold_until = now + wait_s
                standing.is_slow |= isinstance(error, SlowError)
                # The same validator twice in vain: an origin that makes up a new one each time.
                standing.trusts_validators &= not standing.was_restarted
            case Relocate():
                standing.located = None
                standing.was_relocated = True
            case Restart():
                standing.must_restart = standing.was_restarted = True
                standing.validators.clear()
            case OtherSource():
                standing.failures += 1
                standing.lied |= verdict.lied
                standing.is_slow |= isinstance(error, SlowError | LateError)
                standing.rest_until = now + verdict.rest_s
                standing.out = error if verdict.ban else None
                self._current = None
            case Stop():
                pass
            case _:
                assert_never(verdict)

    def failure(self) -> ZhcacheError:
        """Returns what a user reads when every source is out."""
        reasons = "; ".join(f"{s.offer.source}: {s.out}" for s in self.standings)
        if any(s.lied for s in self.standings):
            return IntegrityError(
                "what the sources send is not the file that was promised ({reasons})",
                hint="try another source with --source, or later",
                reasons=reasons,
            )
        for standing in self.standings:
            if (answer := _explained(standing)) is not None:
                return answer
        return SourcesFailed(
            "no source could send the file ({reasons})",
            hint="see zhcache sources; what came so far is kept, so the same command goes on there",
            reasons=reasons or "none offers it",
        )


def _explained(standing: Standing) -> ZhcacheError | None:
    if isinstance(standing.out, RepoUnavailable):
        return standing.out.error
    if isinstance(standing.out, StatusError):
        return standing.offer.explain(standing.out)
    return None
