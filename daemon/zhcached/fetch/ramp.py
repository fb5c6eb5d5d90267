"""When one more connection to a source is worth its cost. Pure; the caller holds the lock."""

from __future__ import annotations

from typing import Final

RAMP_S: Final = 0.25
# A line that carries this on its connections so far is not throttled by connection, and more of
# them would only cost CPU.
FULL_LINE_BYTES_PER_S: Final = 128 * 2**20
# The second connection always joins: one alone shows nothing about the way, and with two the line
# is not idle between one's stretches.
FREE: Final = 2
# A connection on a long way needs this to show what it brings.
SHOW_S: Final = 1.0 + RAMP_S
# Of the growth that an equal share of one more connection would be. Less, and the source's own
# limit is reached: more connections would only divide it anew.
LEAST_GROWTH: Final = 0.25
# Lines change: after this long without growth one more is tried again.
AGAIN_S: Final = 10.0


class Ramp:
    """Climbs by one connection at a time while the source's rate follows, and steps back if not.

    It measures one stretch of ``RAMP_S`` after the other, all connections of the source together.
    """

    def __init__(self) -> None:
        self._ends = 0.0
        self._began = 0.0
        self._bytes = 0
        self._before = 0.0
        self._asked_at = -AGAIN_S
        self._is_tried = False

    def count(self, count: int, now: float) -> bool:
        """Counts ``count`` bytes that came over any connection; true when ``step`` is due."""
        self._bytes += count
        return now >= self._ends

    def step(self, now: float, connections: int, *, has_room: bool) -> int:
        """Returns 1 if one more connection is to join, -1 if the last brought nothing, else 0.

        Args:
            now: Monotonic seconds; a stretch has ended.
            connections: How many the source has.
            has_room: One more is allowed; without it none is asked for.
        """
        # The first bytes of all only begin the first stretch.
        is_measured = self._ends > 0
        rate = self._bytes / (now - self._began) if is_measured else 0.0
        self._ends, self._began, self._bytes = now + RAMP_S, now, 0
        if not is_measured or rate >= FULL_LINE_BYTES_PER_S:
            return 0
        waited = now - self._asked_at
        grown = rate >= self._before * (1 + LEAST_GROWTH / max(1, connections - 1))
        shows = self._is_tried and grown and waited < SHOW_S
        if has_room and (connections < FREE or shows or waited >= AGAIN_S):
            self._before, self._asked_at, self._is_tried = rate, now, True
            return 1
        if self._is_tried and (shows or waited >= SHOW_S):
            self._is_tried = False
            return -1 if not shows and connections > FREE else 0
        return 0
