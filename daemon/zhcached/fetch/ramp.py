"""When one more connection to a source is worth its cost. Pure; the caller holds the lock."""

from __future__ import annotations

from typing import Final

RAMP_S: Final = 0.25
# A line that carries this on its connections so far is not throttled by connection, and more of
# them would only cost CPU.
FULL_LINE_BYTES_PER_S: Final = 128 * 2**20
# The second connection always joins: one alone shows nothing about the way.
FREE: Final = 2
# A connection on a long way needs this to show what it brings.
SHOW_S: Final = 1.0
# Of the growth that an equal share of one more connection would be. Less, and the source's own
# limit is reached: more connections would only divide it anew.
LEAST_GROWTH: Final = 0.25
# Lines change: after this long without growth one more is tried again.
AGAIN_S: Final = 10.0


class Ramp:
    """Climbs by one connection at a time and goes on while the source's rate follows.

    It measures one stretch of ``RAMP_S`` after the other, all connections of the source together.
    """

    def __init__(self) -> None:
        self._ends = 0.0
        self._began = 0.0
        self._bytes = 0
        self._before = 0.0
        self._asked_at = -AGAIN_S

    def wants_more(self, count: int, now: float, connections: int) -> bool:
        """Counts ``count`` bytes; true at the end of a stretch after which one more may join.

        Args:
            count: Bytes that came just now, over any connection of the source.
            now: Monotonic seconds.
            connections: How many it has.
        """
        self._bytes += count
        if now < self._ends:
            return False
        # The first bytes of all only begin the first stretch.
        is_measured = self._ends > 0
        rate = self._bytes / (now - self._began) if is_measured else 0.0
        self._ends, self._began, self._bytes = now + RAMP_S, now, 0
        if not is_measured or rate >= FULL_LINE_BYTES_PER_S:
            return False
        if connections >= FREE and not self._has_grown(rate, now, connections):
            return False
        self._before, self._asked_at = rate, now
        return True

    def _has_grown(self, rate: float, now: float, connections: int) -> bool:
        waited = now - self._asked_at
        if waited >= AGAIN_S:
            return True
        expected = self._before * (1 + LEAST_GROWTH / (connections - 1))
        return waited < SHOW_S + RAMP_S and rate >= expected
