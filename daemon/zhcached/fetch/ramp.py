"""When one more connection is worth its cost. Pure; the caller holds the lock."""

from __future__ import annotations

from typing import Final

RAMP_S: Final = 0.25
# A line that carries this on its connections so far is not throttled by connection, and more of
# them would only cost CPU.
FULL_LINE_BYTES_PER_S: Final = 128 * 2**20


class Ramp:
    """Measures all connections of one file together, one stretch of ``RAMP_S`` after the other."""

    def __init__(self) -> None:
        self._ends = 0.0
        self._began = 0.0
        self._bytes = 0

    def wants_more(self, count: int, now: float) -> bool:
        """Counts ``count`` bytes; true at the end of a stretch in which the line was not full.

        Args:
            count: Bytes that came just now, over any connection.
            now: Monotonic seconds.
        """
        self._bytes += count
        if now < self._ends:
            return False
        # The first bytes of all only begin the first stretch.
        is_measured = self._ends > 0
        is_full = self._bytes >= FULL_LINE_BYTES_PER_S * (now - self._began)
        self._ends, self._began, self._bytes = now + RAMP_S, now, 0
        return is_measured and not is_full
