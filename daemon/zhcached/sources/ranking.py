"""Which source to ask first, for bytes and for metadata, and why. Pure.

What is remembered of each is ``sources.health``. Every judgement comes with its reasons, as phrases
that can be put into the reader's language.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence

import msgspec

from zhcache.errors import fill
from zhcache.i18n import mark
from zhcache.protocol.messages import SourceState
from zhcache.protocol.sources import MEASURED, Phrase
from zhcached.errors import KeyRefused
from zhcached.sources.health import Health, Plane, aged

DOWN_AFTER = 2.5
DOUBTFUL_AFTER = 0.5
LYING_AFTER = 0.5
LATE_AFTER_S = 2.0
SLOW_BELOW = 64.0 * 1024
KEY = KeyRefused.fault
_NEAR_SPEED = 64
"""As a power of two of bytes per second: above all that is measured."""
_ORDER: tuple[SourceState, ...] = ("ok", "unknown", "slow", "limited", "down", "lying")


class Ranked(msgspec.Struct, frozen=True):
    """One source's place, with its state and why: what decided first, what else counts after it."""

    name: str
    state: SourceState
    reasons: tuple[Phrase, ...]

    @property
    def reason(self) -> str:
        """The reasons in English."""
        return "; ".join(fill(phrase.template, phrase.values) for phrase in self.reasons)


def rank(
    names: Sequence[str],
    health: Mapping[str, Health],
    now: float,
    *,
    slow_below: float = SLOW_BELOW,
    near: Container[str] = (),
) -> list[Ranked]:
    """Returns all sources, best first for fetching bytes.

    What is near stands before all others while nothing speaks against it: its bytes cost the line
    nothing, and no hub's budget. Of the rest fast ones first; rates within a factor of two of each
    other count as equal, so that order does not flap; among equals the configured order stands. No
    source is ever dropped: the last one may be the only one that has the file.

    Args:
        names: The sources in configured order.
        health: What is remembered of each; a missing one is unknown.
        now: Seconds since the epoch.
        slow_below: Bytes per second under which a source is called slow.
        near: Sources of this machine or its own network.
    """
    keyed: list[tuple[int, int, int, Ranked]] = []
    for position, name in enumerate(names):
        known = aged(health.get(name, Health()), now)
        state, reasons = state_of(known, now, slow_below=slow_below)
        standing, _ = _state(_for_bytes(known, now), now, slow_below)
        rate = rate_of(known)
        speed = round(math.log2(max(rate, 1.0))) if standing == "ok" and rate else 0
        if name in near and standing in ("ok", "unknown"):
            standing, speed = "ok", _NEAR_SPEED
        keyed.append((_ORDER.index(standing), -speed, position, Ranked(name, state, reasons)))
    return [entry[3] for entry in sorted(keyed, key=lambda entry: entry[:3])]


def rank_metadata(ranked: Sequence[Ranked], health: Mapping[str, Health], now: float) -> list[str]:
    """Returns the names of ``ranked``, best first for asking what a repository is.

    One whose bytes do not come may answer questions as well as any other, so of those that answer
    the order is kept; then come those that want no requests, those that are silent, and liars.
    """

    def place(name: str) -> int:
        known = aged(health.get(name, Health()), now)
        if known.lies >= LYING_AFTER:
            return 3
        if known.metadata.failures >= DOWN_AFTER:
            return 2
        return int(known.metadata.limited_until > now)

    return sorted((entry.name for entry in ranked), key=place)


def is_doubtful(health: Health, now: float) -> bool:
    """Tells whether a source was silent or lied lately, so that nobody should wait for it."""
    known = aged(health, now)
    return known.metadata.failures >= DOUBTFUL_AFTER or known.lies >= LYING_AFTER


def is_silent(health: Health, now: float) -> bool:
    """Tells whether a source has not answered for some time."""
    return aged(health, now).metadata.failures >= DOWN_AFTER


def rate_of(health: Health) -> float | None:
    """Returns the bytes per second to expect: of the plane that was measured last and works."""
    working = [p for p in health.data.values() if p.rate is not None and p.failures < DOWN_AFTER]
    newest = max(working, key=lambda plane: plane.rate_at, default=None)
    return newest.rate if newest else None


def limited_until(health: Health) -> float:
    """Returns until when the source wants no requests: the hub, or where its bytes come from."""
    return max(plane.limited_until for plane in (health.metadata, *health.data.values()))


def plane_state(plane: Plane, now: float) -> str:
    """Returns ``limited``, ``down``, ``ok`` or ``unknown`` of one plane alone."""
    if plane.limited_until > now:
        return "limited"
    if plane.failures >= DOWN_AFTER:
        return "down"
    return "ok" if plane.good_at else "unknown"


def host_of(plane: str) -> str:
    """Returns the host of a data plane, with its port where it is not the usual one."""
    return plane.partition("://")[2] or plane


def state_of(
    health: Health, now: float, *, slow_below: float = SLOW_BELOW
) -> tuple[SourceState, tuple[Phrase, ...]]:
    """Returns the state of one source for bytes at ``now``, and why."""
    known = aged(health, now)
    state, why = _state(known, now, slow_below)
    said: dict[tuple[str, ...], Phrase] = {}
    for phrase in (why, *_besides(known, now)):
        said.setdefault((phrase.template, *phrase.values.values()), phrase)
    return state, tuple(said.values())


def _state(known: Health, now: float, slow_below: float) -> tuple[SourceState, Phrase]:
    if known.lies >= LYING_AFTER:
        return "lying", _phrase(mark("sent wrong bytes: {error}"), error=known.lie)
    if (until := limited_until(known)) > now:
        return "limited", _waits(until - now)
    if known.metadata.failures >= DOWN_AFTER:
        error = known.metadata.last_error
        if known.metadata.last_fault == KEY:
            return "down", _phrase(mark("its key does not work: {error}"), error=error)
        return "down", _phrase(mark("does not answer: {error}"), error=error)
    if (dead := _dead(known)) is not None:
        return "down", dead
    rate = rate_of(known)
    if rate is None:
        return "unknown", _phrase(mark("not measured yet"))
    shown = _phrase(MEASURED, rate=f"{rate / 2**20:.1f}")
    return ("slow", shown) if rate < slow_below else ("ok", shown)


def _for_bytes(known: Health, now: float) -> Health:
    """Returns the record without what keeps only questions away: bytes have budgets too."""
    limited = any(plane.limited_until > now for plane in known.data.values())
    if limited or not known.data:
        return known
    metadata = msgspec.structs.replace(known.metadata, limited_until=0.0)
    return msgspec.structs.replace(known, metadata=metadata)


def _besides(known: Health, now: float) -> Iterator[Phrase]:
    """Yields what else is worth knowing, whatever the state."""
    if known.lies >= LYING_AFTER and limited_until(known) > now:
        yield _waits(limited_until(known) - now)
    if (dead := _dead(known)) is not None:
        yield dead
    for name, plane in known.data.items():
        if plane.failures >= DOWN_AFTER and dead is None:
            template = mark("nothing comes from {plane}: {error}")
            yield _phrase(template, plane=host_of(name), error=plane.last_error)
        elif DOUBTFUL_AFTER <= plane.failures < DOWN_AFTER:
            template = mark("{plane} failed lately: {faults}")
            yield _phrase(template, plane=host_of(name), faults=_faults(plane))
    if DOUBTFUL_AFTER <= known.metadata.failures < DOWN_AFTER:
        yield _phrase(mark("did not answer lately: {faults}"), faults=_faults(known.metadata))
    latency = known.metadata.latency or 0.0
    if latency >= LATE_AFTER_S and known.metadata.failures < DOUBTFUL_AFTER:
        yield _phrase(mark("takes {seconds} s to answer"), seconds=f"{latency:.1f}")


def _dead(known: Health) -> Phrase | None:
    """Returns that no bytes come: a plane is dead, and no other has shown since that it works.

    Small files prove nothing: they come from the hub's own host, and large ones do not.
    """
    down = {name: plane for name, plane in known.data.items() if plane.failures >= DOWN_AFTER}
    if not down:
        return None
    name, plane = max(down.items(), key=lambda item: item[1].error_at)
    if any(p.rate_at > plane.error_at for n, p in known.data.items() if n not in down):
        return None
    lists = known.metadata.good_at > 0 and known.metadata.failures < DOWN_AFTER
    template = (
        mark("lists models, but {plane} sends nothing: {error}")
        if lists
        else mark("{plane} sends nothing: {error}")
    )
    return _phrase(template, plane=host_of(name), error=plane.last_error)


def _waits(seconds: float) -> Phrase:
    return _phrase(mark("asks to wait another {seconds} s"), seconds=str(math.ceil(seconds)))


def _faults(plane: Plane) -> str:
    counted = sorted(plane.faults.items(), key=lambda item: -item[1])
    return ", ".join(f"{kind} x{max(1, round(count))}" for kind, count in counted)


def _phrase(template: str, **values: str) -> Phrase:
    return Phrase(template=template, values=values)
