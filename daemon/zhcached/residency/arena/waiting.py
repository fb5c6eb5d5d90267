"""Who waits for room on which device: the first come is the first served.

Small requests would else take every bit that becomes free from a large one, which would never have
its turn.
"""

from __future__ import annotations

from zhcached.residency.arena.wanted import Wanted


class Waiting:
    """A line for each device. Guarded by the lock of ``Arenas``."""

    def __init__(self) -> None:
        self._line: list[Wanted] = []

    def join(self, wanted: Wanted) -> None:
        """Takes the last place; who has one keeps it."""
        if wanted not in self._line:
            self._line.append(wanted)

    def leave(self, wanted: Wanted) -> None:
        """Gives the place up; who has none has nothing to give up."""
        if wanted in self._line:
            self._line.remove(wanted)

    def ahead(self, wanted: Wanted) -> int:
        """Returns how many stand before it on its device."""
        place = self._line.index(wanted) if wanted in self._line else len(self._line)
        return sum(other.device == wanted.device for other in self._line[:place])
