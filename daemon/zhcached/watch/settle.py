"""When what was dropped in counts as at rest. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rest:
    """How long something has not changed: its fingerprint, and since when on a monotonic clock."""

    fingerprint: str
    since: float


def settle(
    before: Rest | None, fingerprint: str, now: float, settle_s: float
) -> tuple[Rest, float]:
    """Returns the state after a look, and the seconds that are left until it is at rest.

    Args:
        before: The state after the look before; None at the first.
        fingerprint: What was seen now.
        now: When, on a monotonic clock.
        settle_s: How long nothing may change.
    """
    if before is None or before.fingerprint != fingerprint:
        return Rest(fingerprint, now), settle_s
    return before, max(0.0, before.since + settle_s - now)
