"""What a supervisor needs of the rest of the daemon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from zhcache.protocol import residency
from zhcache.protocol.placement import WeightsList
from zhcached.residency.launch.launch import Launcher
from zhcached.residency.resident.artifacts import Artifacts
from zhcached.residency.resident.instance import Instance
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.seen import SeenCalls
from zhcached.residency.resident.timeouts import Timeouts


class ArenaSource(Protocol):
    """What is asked of ``zhcached.residency.arena.arenas.Arenas``."""

    def attach(
        self,
        lease_id: str,
        repo: str,
        commit: str,
        uid: int,
        device: str,
        *,
        components: Sequence[str] | None,
        on_progress: Callable[[residency.Progress], None],
        cancelled: threading.Event,
    ) -> Sequence[tuple[residency.Arena, int]]:
        """Returns the arenas, filled; their descriptors stay the source's."""
        ...

    def released(self, lease_id: str) -> None:
        """Takes notice that a lease is over."""
        ...

    def bytes_of(self, repo: str, commit: str, uid: int, device: str) -> int:
        """Returns what a snapshot's arenas take on a device that are a user's."""
        ...

    def bytes_on(self, device: str) -> int:
        """Returns what all arenas take on a device."""
        ...

    def idle_on(self, device: str) -> int:
        """Returns what those of them take that nobody leases."""
        ...

    def let_go(self, device: str, need_bytes: int) -> bool:
        """Frees so many bytes of those that nobody leases; tells whether there were as many."""
        ...


class Context(Protocol):
    """What a supervisor needs of ``Residents``."""

    lock: threading.Condition
    launcher: Launcher
    arenas: ArenaSource
    artifacts: Artifacts
    seen: SeenCalls
    timeouts: Timeouts

    def admit(self, instance: Instance) -> bool:
        """Waits for room for the instance's worker; tells whether one is still wanted."""
        ...

    def folder(self, instance: Instance) -> str:
        """Returns where the instance's snapshot lies."""
        ...

    def weigh(self, kind: Kind) -> WeightsList:
        """Returns what the components of a kind take, and what calls of it were seen to take."""
        ...

    def left(self, instance: Instance) -> None:
        """Takes notice, under the lock, that the supervisor ends."""
        ...
