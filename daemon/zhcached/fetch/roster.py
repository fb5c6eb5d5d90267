"""The sources of one file, and how each stands with it. Pure; the caller holds the lock.

A source that serves has seats: as many connections may ask it at once. Without one it is asked
nothing, and what it is just sending is not waited for. Who gets how many is ``allot``'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from zhcache.errors import IntegrityError, SourcesFailed, ZhcacheError
from zhcached.errors import RepoUnavailable, StatusError
from zhcached.fetch.limits import SlowError
from zhcached.fetch.offer import Offer, Sender
from zhcached.fetch.pace import Pace
from zhcached.fetch.ramp import Ramp
from zhcached.fetch.verdict import Again, OtherSource, Relocate, Restart, Stop, Verdict
from zhcached.transport.address import Origin
from zhcached.transport.dial import LateError
from zhcached.transport.http import Target

# Until something is measured: the way to a hub in the same country and back, TLS included.
LATENCY_S: Final = 0.1
# A source that was slow or brought nothing may have become better after this.
REJOIN_S: Final = 60.0


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
        hold_until: Monotonic time before which it is not asked, though it keeps its seats.
        rest_until: Monotonic time before which only others are asked.
        rejoin_at: Monotonic time before which it is asked only where nobody else may be.
        seats: Connections that may ask it at once; 0 while it does not serve.
        running: Stretches it is sending now.
        streaming: Of them those whose bytes are arriving.
        latency_s: From a request to its first byte, lately.
        pace: Of all its connections together.
        ramp: Whether one more of them is worth it.
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
    rejoin_at: float = 0.0
    seats: int = 0
    running: int = 0
    streaming: int = 0
    latency_s: float = LATENCY_S
    pace: Pace = field(default_factory=Pace)
    ramp: Ramp = field(default_factory=Ramp)

    @property
    def sender(self) -> Sender:
        """Who sent last, or will send."""
        return Sender(self.offer.source, self.plane)

    def rate(self, now: float) -> float | None:
        """Returns bytes per second, as measured or else as expected; None if nothing is known."""
        measured = self.pace.rate(now)
        return self.offer.rate if measured is None else measured

    def share(self, now: float) -> float | None:
        """Returns what one of its connections brings, in bytes per second."""
        rate = self.rate(now)
        return None if rate is None else rate / max(1, self.running)

    def may_serve(self, now: float) -> bool:
        """Tells whether it can be asked for this file now."""
        return self.out is None and self.rest_until <= now

    def answered(self, after_s: float) -> None:
        """An answer's head came ``after_s`` seconds after the request."""
        self.latency_s += (after_s - self.latency_s) / 4

    def progressed(self) -> None:
        """Forgets failures: it has sent something worth a request."""
        self.failures = 0
        self.was_relocated = False


class Roster:
    """All sources of a file.

    Args:
        offers: Best first; no source twice.
    """

    def __init__(self, offers: Sequence[Offer]) -> None:
        self.standings = [Standing(offer) for offer in offers]

    def serving(self) -> list[Standing]:
        """Returns the sources that have seats, best first."""
        return [standing for standing in self.standings if standing.seats]

    def next_best(self, now: float) -> Standing | None:
        """Returns who is to serve when nobody does; None if nobody may be asked now."""
        able = [s for s in self.standings if s.may_serve(now)]
        return min(able, key=lambda s: (s.is_slow, s.rejoin_at > now), default=None)

    def has_alternatives(self, standing: Standing, now: float) -> bool:
        """Tells whether another source could take over from ``standing`` now."""
        return any(s is not standing and not s.is_slow and s.may_serve(now) for s in self.standings)

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
                standing.rejoin_at = now + REJOIN_S if standing.is_slow else 0.0
                standing.out = error if verdict.ban else None
                standing.seats = 0
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
