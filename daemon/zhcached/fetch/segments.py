"""Who fetches which stretch of a file. Pure; the caller holds the lock.

Stretches are taken from the front, so that the hash, which runs from the front, finds its bytes
still in the page cache. At the end an idle connection takes the later half of the largest running
stretch over: the file never waits for one slow connection alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from zhcached.store.ranges import Ranges

MIN_STEAL = 2**20


@dataclass(slots=True, eq=False)
class Segment:
    """The stretch ``position..end`` that one connection is to bring.

    Its thread moves ``position``; another may lower ``end``, so it is read anew at every step.
    """

    position: int
    end: int

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return max(0, self.end - self.position)


class Segments:
    """The running stretches of one file."""

    def __init__(self) -> None:
        self._running: list[Segment] = []

    def __len__(self) -> int:
        return len(self._running)

    def unassigned(self, missing: Ranges) -> Ranges:
        """Returns what of ``missing`` no connection is bringing."""
        free = missing.copy()
        for segment in self._running:
            if segment.left:
                free.remove(segment.position, segment.end)
        return free

    def take(self, missing: Ranges, piece: int) -> Segment | None:
        """Returns a new running segment: the first free stretch of ``missing``, or a stolen one.

        Args:
            missing: What the file still lacks.
            piece: Longest stretch to give out, in bytes.
        """
        for start, end in self.unassigned(missing):
            return self._run(Segment(start, min(end, start + piece)))
        return self._steal()

    def drop(self, segment: Segment) -> None:
        """Ends ``segment``; what it did not bring is free again."""
        self._running.remove(segment)

    def _steal(self) -> Segment | None:
        victim = max(self._running, key=lambda segment: segment.left, default=None)
        if victim is None or victim.left < 2 * MIN_STEAL:
            return None
        middle = victim.end - victim.left // 2
        stolen = Segment(middle, victim.end)
        victim.end = middle
        return self._run(stolen)

    def _run(self, segment: Segment) -> Segment:
        self._running.append(segment)
        return segment
