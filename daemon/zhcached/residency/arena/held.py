"""One arena that this daemon holds: its memory, who uses it, how long it stays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from zhcache.protocol.residency import Arena
from zhcached.residency.arena.budget import Item
from zhcached.residency.arena.scopes import is_private

FOREVER = 1e300
"""A time that never comes, and that JSON can carry."""


class Use(NamedTuple):
    """What a lease has an arena for."""

    uid: int
    repo: str
    commit: str


@dataclass(eq=False, slots=True)
class Held:
    """An arena in memory. Guarded by the lock of ``Arenas``; times are the clock's monotonic ones.

    Attributes:
        arena: What clients are told.
        fd: Its memory, ours.
        scope: Who may share it: ``any``, ``uid:N``, ``group`` or ``lease:ID``.
        uid: Who had it filled.
        used: When it was last attached or let go.
        served: When each user last had it; a user's wish to keep it takes the place of his.
        filled: When it was filled.
        snapshots: The repositories and commits it was attached for.
        leases: Who has it attached.
        keep_until: Until when somebody wants it kept.
        restored: Leases from before this daemon; their end is told by the store alone.
        is_mend: It replaced one that was found damaged.
    """

    arena: Arena
    fd: int
    scope: str
    uid: int
    used: float
    filled: float
    snapshots: set[tuple[str, str]] = field(default_factory=set)
    leases: dict[str, Use] = field(default_factory=dict)
    served: dict[int, float] = field(default_factory=dict)
    keep_until: float = 0.0
    restored: set[str] = field(default_factory=set)
    is_mend: bool = False

    def ends(self, keep_alive_s: float) -> float:
        """Returns when it goes if nothing happens; ``FOREVER`` while somebody has it."""
        if self.leases:
            return FOREVER
        if is_private(self.scope):
            return 0.0
        idle = max(self.served.values(), default=-math.inf) + keep_alive_s
        return max(idle, self.keep_until)

    def item(self, now: float, keep_alive_s: float, name: Callable[[str], str]) -> Item:
        """Returns it as the plan of room sees it; ``name`` names the holder of a lease."""
        return Item(
            key=self.arena.key,
            bytes=self.arena.bytes,
            used=self.used,
            holders=tuple(name(lease) for lease in self.leases),
            is_expired=self.ends(keep_alive_s) <= now,
            is_kept=self.keep_until > now,
        )
