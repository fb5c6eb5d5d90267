"""Which snapshots leave the page cache so that another one fits. Pure.

Snapshots share files, so that what leaves frees only what no other one keeps; that is why this is
not ``budget``, whose arenas share nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """One snapshot that is kept.

    Attributes:
        key: Its name.
        files: Bytes of each of its files.
        used: When it was last used.
        is_forever: Somebody wanted it kept until it is stopped; such a one goes last.
        holders: Who uses it now, as texts; while there are any it does not go.
    """

    key: Hashable
    files: Mapping[str, int]
    used: float = 0.0
    is_forever: bool = False
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """There is room once these are gone."""

    gone: Sequence[Hashable]


@dataclass(frozen=True, slots=True)
class Full:
    """There is none before these have ended."""

    holders: Sequence[str]


@dataclass(frozen=True, slots=True)
class TooLarge:
    """It would not fit if nothing else were kept."""

    bytes: int


def make_room(
    claims: Iterable[Claim], wanted: Mapping[str, int], capacity: int
) -> Room | Full | TooLarge:
    """Decides what goes so that ``wanted`` fits: the longest unused first."""
    if (alone := sum(wanted.values())) > capacity:
        return TooLarge(alone)
    left = sorted(claims, key=lambda claim: (claim.is_forever, claim.used))
    gone: list[Hashable] = []
    while _bytes(left, wanted) > capacity:
        going = next((claim for claim in left if not claim.holders), None)
        if going is None:
            return Full(sorted({holder for claim in left for holder in claim.holders}))
        left.remove(going)
        gone.append(going.key)
    return Room(gone)


def _bytes(claims: Iterable[Claim], wanted: Mapping[str, int]) -> int:
    files = dict(wanted)
    for claim in claims:
        files.update(claim.files)
    return sum(files.values())
