"""Which resident workers a user may stop, and who keeps the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from zhcached.residency.resident.station import Station
from zhcached.residency.resident.stations import users


@dataclass(slots=True)
class Letting:
    """What ``stop`` did: bytes freed on each device, and who has what stayed."""

    freed: list[tuple[str, int]] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)


def is_meant(station: Station, repo: str, variant: str | None, device: str | None) -> bool:
    """Tells whether a station's worker is one that was asked for."""
    kind = station.kind
    return (
        station.is_tended
        and kind.repo == repo
        and variant in (None, kind.variant)
        and device in (None, kind.device)
    )


def holder_of(station: Station, uid: int, *, may_all: bool, force: bool) -> str | None:
    """Returns who keeps ``uid`` from ending a station, in words, or None."""
    is_own = may_all or all(guest.uid == uid for guest in station.guests)
    if station.guests and not (force and is_own):
        return f"{station.kind}: {users(station)}"
    others = [keeper for keeper in station.kept.uids if keeper != uid]
    if others and not may_all:
        return f"{station.kind}: kept warm by uid {', '.join(map(str, others))}"
    return None
