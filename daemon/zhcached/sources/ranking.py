"""Which source to ask first: measured health that fades with time. Pure.

A source's record is a small value that the caller keeps and saves; ``observe`` folds one event
into it and ``rank`` orders sources. Times are seconds of the wall clock, since records outlive
the process; a clock that jumps back makes nothing older than it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from zhcache.protocol.messages import SourceState

FAILURE_HALF_LIFE_S = 600.0
LIE_HALF_LIFE_S = 7 * 86400.0
RATE_MEMORY_S = 20.0
"""Transfer time over which an old rate is forgotten by the factor e."""
RATE_VALID_S = 86400.0
DOWN_AFTER = 2.5
DOUBTFUL_AFTER = 0.5
LYING_AFTER = 0.5
_MIN_MEASURED_BYTES = 256 * 1024
_ORDER: tuple[SourceState, ...] = ("ok", "unknown", "slow", "limited", "down", "lying")


class Delivered(msgspec.Struct, frozen=True, tag=True):
    """Bytes came, in ``seconds`` of transfer; zero bytes is an answer to a metadata call."""

    bytes: int
    seconds: float


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It could not be reached, broke off, stalled, or answered nonsense."""

    reason: str


class Limited(msgspec.Struct, frozen=True, tag=True):
    """It asked to be left alone for ``wait_s``."""

    wait_s: float


class Lied(msgspec.Struct, frozen=True, tag=True):
    """Its bytes or its promises were proved false."""

    detail: str


Event = Delivered | Failed | Limited | Lied


class Health(msgspec.Struct, frozen=True):
    """What is remembered of one source. ``failures`` and ``lies`` are as of ``seen``."""

    rate: float | None = None
    rate_at: float = 0.0
    bytes: int = 0
    failures: float = 0.0
    lies: float = 0.0
    limited_until: float = 0.0
    last_error: str = ""
    error_at: float = 0.0
    seen: float = 0.0


class Ranked(msgspec.Struct, frozen=True):
    """One source's place, with its state and why."""

    name: str
    state: SourceState
    reason: str


def observe(health: Health, event: Event, now: float) -> Health:
    """Returns ``health`` with ``event``, which happened at ``now``, folded in."""
    aged = _age(health, now)
    match event:
        case Delivered():
            return _delivered(aged, event, now)
        case Failed():
            return msgspec.structs.replace(
                aged, failures=aged.failures + 1, last_error=event.reason, error_at=now
            )
        case Limited():
            until = max(aged.limited_until, now + max(event.wait_s, 0.0))
            return msgspec.structs.replace(
                aged, limited_until=until, last_error="too many requests", error_at=now
            )
        case Lied():
            return msgspec.structs.replace(
                aged, lies=aged.lies + 1, last_error=event.detail, error_at=now
            )


def state_of(health: Health, now: float, *, slow_below: float) -> tuple[SourceState, str]:
    """Returns the state of one source at ``now`` and why, in one short English phrase."""
    aged = _age(health, now)
    if aged.lies >= LYING_AFTER:
        return "lying", f"sent wrong bytes: {aged.last_error}"
    if aged.limited_until > now:
        return "limited", f"asks to wait another {math.ceil(aged.limited_until - now)} s"
    if aged.failures >= DOWN_AFTER:
        return "down", f"failed repeatedly: {aged.last_error}"
    if aged.rate is None:
        return "unknown", "not measured yet"
    rate = f"{aged.rate / 2**20:.1f} MiB/s"
    return ("slow", rate) if aged.rate < slow_below else ("ok", rate)


def is_doubtful(health: Health, now: float) -> bool:
    """Tells whether a source failed or lied lately, so that nobody should wait for it."""
    aged = _age(health, now)
    return aged.failures >= DOUBTFUL_AFTER or aged.lies >= LYING_AFTER


def rank(
    names: Sequence[str],
    health: Mapping[str, Health],
    now: float,
    *,
    slow_below: float = 64 * 1024,
) -> list[Ranked]:
    """Returns all sources, best first.

    Fast ones first; rates within a factor of two of each other count as equal, so that order does
    not flap; among equals the configured order stands. No source is ever dropped: the last one
    may be the only one that has the file.

    Args:
        names: The sources in configured order.
        health: What is remembered of each; a missing one is unknown.
        now: Seconds since the epoch.
        slow_below: Bytes per second under which a source is called slow.
    """
    keyed: list[tuple[int, int, int, Ranked]] = []
    for position, name in enumerate(names):
        known = _age(health.get(name, Health()), now)
        state, reason = state_of(known, now, slow_below=slow_below)
        speed = round(math.log2(max(known.rate, 1.0))) if state == "ok" and known.rate else 0
        keyed.append((_ORDER.index(state), -speed, position, Ranked(name, state, reason)))
    return [entry[3] for entry in sorted(keyed, key=lambda entry: entry[:3])]


def _age(health: Health, now: float) -> Health:
    elapsed = max(now - health.seen, 0.0)
    rate_is_old = now - health.rate_at > RATE_VALID_S
    return msgspec.structs.replace(
        health,
        failures=health.failures * 0.5 ** (elapsed / FAILURE_HALF_LIFE_S),
        lies=health.lies * 0.5 ** (elapsed / LIE_HALF_LIFE_S),
        rate=None if rate_is_old else health.rate,
        seen=max(now, health.seen),
    )


def _delivered(aged: Health, event: Delivered, now: float) -> Health:
    rate, rate_at = aged.rate, aged.rate_at
    # Small bodies measure the round trip, not the line; no clock tells less than a millisecond.
    if event.bytes >= _MIN_MEASURED_BYTES and event.seconds > 0:
        measured = event.bytes / max(event.seconds, 0.001)
        kept = math.exp(-event.seconds / RATE_MEMORY_S)
        rate = measured if rate is None else kept * rate + (1 - kept) * measured
        rate_at = now
    return msgspec.structs.replace(
        aged, rate=rate, rate_at=rate_at, bytes=aged.bytes + event.bytes, failures=0.0
    )
