"""What an attendant needs of the rest of the daemon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from zhcache.protocol import residency
from zhcached.residency.launch.launch import Launcher
from zhcached.residency.resident.artifacts import Artifacts
from zhcached.residency.resident.patience import Patience
from zhcached.residency.resident.station import Station


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
        on_progress: Callable[[residency.Progress], None],
        cancelled: threading.Event,
    ) -> Sequence[tuple[residency.Arena, int]]:
        """Returns the arenas, filled; their descriptors stay the source's."""
        ...

    def released(self, lease_id: str) -> None:
        """Takes notice that a lease is over."""
        ...

    def bytes_on(self, device: str) -> int:
        """Returns what all arenas take on a device."""
        ...


class House(Protocol):
    """What an attendant needs of ``Residents``."""

    lock: threading.Condition
    launcher: Launcher
    arenas: ArenaSource
    artifacts: Artifacts
    patience: Patience

    def admit(self, station: Station) -> bool:
        """Waits for room for the station's worker; tells whether one is still wanted."""
        ...

    def folder(self, station: Station) -> str:
        """Returns where the station's snapshot lies."""
        ...

    def left(self, station: Station) -> None:
        """Takes notice, under the lock, that the attendant ends."""
        ...
