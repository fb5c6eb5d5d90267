"""What is remembered of a source, plane by plane, and how it fades. Pure.

A hub answers questions on one plane and sends bytes on others: often another host, behind a
redirect, which may be dead while the first one lists everything. So each plane has a record of its
own: the metadata plane, and every origin that bytes really come from.

A record is a small value that the caller keeps and saves; ``observe`` folds one event into it.
Times are seconds of the wall clock, since records outlive the process; a clock that jumps back
makes nothing older than it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

FAILURE_HALF_LIFE_S = 600.0
FOR_GOOD = 4.0
"""Failures that one counts as which only an operator can mend."""
LIE_HALF_LIFE_S = 7 * 86400.0
RATE_MEMORY_S = 20.0
"""Transfer time over which an old rate is forgotten by the factor e."""
RATE_VALID_S = 86400.0
LATENCY_KEPT = 0.7
"""What of the remembered latency stays after one more answer."""
MAX_PLANES = 8
MAX_TEXT = 500
METADATA = ""
"""The name of the plane that answers questions; the others are called by their origin."""
_MIN_MEASURED_BYTES = 256 * 1024
_FORGOTTEN = 0.05


class Answered(msgspec.Struct, frozen=True, tag=True):
    """An answer began after ``seconds``; None where nobody took the time."""

    seconds: float | None = None


class Delivered(msgspec.Struct, frozen=True, tag=True):
    """Bytes came, in ``seconds`` of transfer; 0 where they are too few to measure a line by."""

    bytes: int
    seconds: float


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It could not be reached, broke off, stalled, or answered nonsense: ``kind`` in a word.

    ``for_good`` is what another try does not change; it counts as many.
    """

    reason: str
    kind: str = "broke off"
    for_good: bool = False


class Limited(msgspec.Struct, frozen=True, tag=True):
    """It asked to be left alone for ``wait_s``."""

    wait_s: float


class Lied(msgspec.Struct, frozen=True, tag=True):
    """Its bytes or its promises were proved false."""

    detail: str


Event = Answered | Delivered | Failed | Limited | Lied


class Plane(msgspec.Struct, frozen=True):
    """What is remembered of one plane. ``failures`` and ``faults`` are as of ``seen``.

    Attributes:
        rate: Bytes per second; None before the first measurement, and once it is too old.
        latency: Seconds until an answer begins, redirects included.
        bytes: Received in all.
        failures: How often it failed lately, since it last did what it is there for.
        faults: How often it failed lately, by kind, whatever it did between.
        good_at: When it last answered (metadata) or sent bytes.
    """

    rate: float | None = None
    rate_at: float = 0.0
    latency: float | None = None
    bytes: int = 0
    failures: float = 0.0
    faults: Mapping[str, float] = {}
    limited_until: float = 0.0
    last_error: str = ""
    last_fault: str = ""
    error_at: float = 0.0
    good_at: float = 0.0
    seen: float = 0.0


class Health(msgspec.Struct, frozen=True):
    """What is remembered of one source. ``lies`` is as of ``seen``.

    A record of an earlier release, which knew no planes, is read as what it has in common.
    """

    bytes: int = 0
    lies: float = 0.0
    lie: str = ""
    seen: float = 0.0
    metadata: Plane = Plane()
    data: Mapping[str, Plane] = {}

    def plane(self, name: str) -> Plane:
        """Returns the record of a plane; an unknown one has nothing in it."""
        return self.metadata if name == METADATA else self.data.get(name, Plane())


def observe(health: Health, event: Event, now: float, plane: str = METADATA) -> Health:
    """Returns ``health`` with ``event``, which happened at ``now`` on ``plane``, folded in."""
    grown = aged(health, now)
    known = _aged(grown.plane(plane), now)
    changed = _observe(known, event, now, is_metadata=plane == METADATA)
    if isinstance(event, Lied):
        text = event.detail[:MAX_TEXT]
        grown = msgspec.structs.replace(grown, lies=grown.lies + 1, lie=text)
    elif isinstance(event, Delivered):
        grown = msgspec.structs.replace(grown, bytes=grown.bytes + event.bytes)
    if plane == METADATA:
        return msgspec.structs.replace(grown, metadata=changed)
    data = {**grown.data, plane: changed}
    while len(data) > MAX_PLANES:
        # A hub's redirects decide how many there are.
        data.pop(min((n for n in data if n != plane), key=lambda n: _used_at(data[n])))
    return msgspec.structs.replace(grown, data=data)


def aged(health: Health, now: float) -> Health:
    """Returns ``health`` as it is at ``now``."""
    elapsed = max(now - health.seen, 0.0)
    return msgspec.structs.replace(
        health,
        lies=health.lies * 0.5 ** (elapsed / LIE_HALF_LIFE_S),
        seen=max(now, health.seen),
        metadata=_aged(health.metadata, now),
        data={name: _aged(plane, now) for name, plane in health.data.items()},
    )


def _used_at(plane: Plane) -> float:
    return max(plane.good_at, plane.error_at)


def _aged(plane: Plane, now: float) -> Plane:
    left = 0.5 ** (max(now - plane.seen, 0.0) / FAILURE_HALF_LIFE_S)
    faults = {kind: count * left for kind, count in plane.faults.items()}
    return msgspec.structs.replace(
        plane,
        failures=plane.failures * left,
        faults={kind: count for kind, count in faults.items() if count > _FORGOTTEN},
        rate=None if now - plane.rate_at > RATE_VALID_S else plane.rate,
        seen=max(now, plane.seen),
    )


def _observe(plane: Plane, event: Event, now: float, *, is_metadata: bool) -> Plane:
    match event:
        case Answered():
            answered = msgspec.structs.replace(plane, latency=_latency(plane, event.seconds))
            # One that answers and sends nothing is no better for it.
            return _well(answered, now) if is_metadata else answered
        case Delivered():
            return _well(_delivered(plane, event, now), now)
        case Failed():
            failures = FOR_GOOD if event.for_good else 1.0
            return _faulty(plane, event.kind, event.reason, now, failures=failures)
        case Limited():
            until = max(plane.limited_until, now + max(event.wait_s, 0.0))
            limited = msgspec.structs.replace(plane, limited_until=until)
            return _faulty(limited, "limited", "too many requests", now, failures=0.0)
        case Lied():
            return _faulty(plane, "lied", event.detail, now, failures=0.0)


def _well(plane: Plane, now: float) -> Plane:
    return msgspec.structs.replace(plane, failures=0.0, good_at=now)


def _faulty(plane: Plane, kind: str, text: str, now: float, *, failures: float) -> Plane:
    return msgspec.structs.replace(
        plane,
        failures=plane.failures + failures,
        faults={**plane.faults, kind: plane.faults.get(kind, 0.0) + 1},
        last_error=text[:MAX_TEXT],
        last_fault=kind,
        error_at=now,
    )


def _latency(plane: Plane, seconds: float | None) -> float | None:
    if seconds is None or plane.latency is None:
        return plane.latency if seconds is None else seconds
    return LATENCY_KEPT * plane.latency + (1 - LATENCY_KEPT) * seconds


def _delivered(plane: Plane, event: Delivered, now: float) -> Plane:
    rate, rate_at = plane.rate, plane.rate_at
    # Small bodies measure the round trip, not the line; no clock tells less than a millisecond.
    if event.bytes >= _MIN_MEASURED_BYTES and event.seconds > 0:
        measured = event.bytes / max(event.seconds, 0.001)
        kept = math.exp(-event.seconds / RATE_MEMORY_S)
        rate = measured if rate is None else kept * rate + (1 - kept) * measured
        rate_at = now
    return msgspec.structs.replace(
        plane, rate=rate, rate_at=rate_at, bytes=plane.bytes + event.bytes
    )
