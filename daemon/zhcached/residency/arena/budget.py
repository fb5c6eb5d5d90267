"""Which arenas go when room is needed: a pure function of what there is.

Leased memory never goes: its bytes are freed only by whoever has it mapped. Of the rest first what
is over its time, then what was used longest ago, and only then what somebody asked to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of memory on the device, as the plan sees it.

    Attributes:
        key: Its name.
        bytes: Its size.
        used: When it was last used, on any clock that only goes forward.
        holders: Who leases it, as texts; empty if nobody does.
        is_expired: Its time is over.
        is_kept: Somebody asked for it to be kept and that time is not over.
    """

    key: str
    bytes: int
    used: float
    holders: tuple[str, ...] = ()
    is_expired: bool = False
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Evict:
    """These go, in this order; with them gone there is room."""

    keys: list[str]


@dataclass(frozen=True, slots=True)
class Wait:
    """There is no room until these have ended. Empty: others than arenas have it."""

    holders: list[str]


@dataclass(frozen=True, slots=True)
class TooLarge:
    """It would not fit on an empty device: ``missing`` bytes are wanting."""

    missing: int


def plan(
    items: Sequence[Item], need_bytes: int, capacity: int, elsewhere: int = 0
) -> Evict | Wait | TooLarge:
    """Says how ``need_bytes`` more get room.

    Args:
        items: What is on the device.
        need_bytes: What is to come.
        capacity: What the device may hold in all.
        elsewhere: Bytes on it that are no items and may become free: fills that run, and the
            memory of resident pipelines.
    """
    if need_bytes > capacity:
        return TooLarge(need_bytes - capacity)
    excess = sum(item.bytes for item in items) + elsewhere + need_bytes - capacity
    going: list[Item] = []
    idle = [item for item in items if not item.holders]
    for item in sorted(idle, key=lambda i: (not i.is_expired, i.is_kept, i.used, i.key)):
        if excess <= 0:
            break
        going.append(item)
        excess -= item.bytes
    if excess > 0:
        return Wait(sorted({holder for item in items for holder in item.holders}))
    return Evict([item.key for item in _needed(going, -excess)])


def _needed(going: list[Item], spare: int) -> list[Item]:
    """Leaves those out that need not go: a large one that came last may do for small ones."""
    kept: list[Item] = []
    for item in reversed(going):
        if item.bytes <= spare:
            spare -= item.bytes
        else:
            kept.append(item)
    return kept[::-1]
