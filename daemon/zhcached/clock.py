"""Time as a value that is passed in, so that tests can own it.

``wall`` is for what people read and files record; ``monotonic`` for every wait and age inside one
run. Nothing else in the daemon asks the system for the time.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Source of time in seconds."""

    def wall(self) -> float:
        """Seconds since the epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some start; never goes back."""
        ...


class SystemClock:
    """The machine's clock."""

    def wall(self) -> float:
        """Seconds since the epoch; may jump."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since boot, suspend included where the system counts it."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
