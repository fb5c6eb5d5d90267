"""Which idle workers make room for a new one. Pure: decides, and ends nothing.

Arenas that nobody leases go before idle workers do: to fill one anew takes less than to load a
pipeline. Of the workers only idle ones go: first those whom nobody asked to keep, then those kept
warm, each time the one longest unused. Where that is not enough, it is said who is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """One worker that is there or coming.

    Attributes:
        name: The instance's number.
        takes: Bytes that it takes, by device.
        holder: Who uses it, in words.
        used: When it was last used, in seconds of a monotonic clock.
        is_idle: Nobody's call is at it and nobody would miss it now.
        is_kept: Somebody asked for it to stay warm.
        is_ending: It goes already.
    """

    name: int
    takes: Mapping[str, int]
    holder: str
    used: float
    is_idle: bool
    is_kept: bool = False
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class Admit:
    """There is room."""


@dataclass(frozen=True, slots=True)
class LetGo:
    """There is room once these have ended, and so many bytes of arenas are gone."""

    names: tuple[int, ...]
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """There is no room until one of these is done."""

    holders: tuple[str, ...]


def plan(
    places: Sequence[Place],
    *,
    device: str,
    need_bytes: int,
    room_bytes: int,
    workers: int,
    spare_bytes: int = 0,
) -> Admit | LetGo | Wait:
    """Returns how a worker of ``need_bytes`` on ``device`` comes to its place.

    Args:
        places: All workers there are.
        device: Where the new one goes.
        need_bytes: What it takes.
        room_bytes: What all workers on the device may take together.
        workers: How many workers there may be on all devices.
        spare_bytes: What arenas would give up there, which ``room_bytes`` is without.
    """
    over_bytes = sum(p.takes.get(device, 0) for p in places) + need_bytes - room_bytes
    over_count = len(places) + 1 - workers
    ending = sum(p.takes.get(device, 0) for p in places if p.is_ending)
    spared = max(0, min(over_bytes - ending, spare_bytes))
    over_bytes -= spared
    going: list[Place] = []
    candidates = sorted(
        (p for p in places if p.is_idle or p.is_ending),
        key=lambda p: (not p.is_ending, p.is_kept, p.used),
    )
    for place in candidates:
        if over_bytes > 0 and device in place.takes:
            going.append(place)
            over_bytes -= place.takes[device]
    # Bytes first: who goes for them leaves a worker's place as well.
    over_count -= len(going)
    for place in candidates:
        if over_count > 0 and place not in going:
            going.append(place)
            over_count -= 1
    if over_bytes > 0 or over_count > 0:
        blocking = [
            p.holder for p in places if p not in going and (over_count > 0 or device in p.takes)
        ]
        return Wait(tuple(sorted(set(blocking))))
    return LetGo(tuple(p.name for p in going), spared) if going or spared else Admit()
