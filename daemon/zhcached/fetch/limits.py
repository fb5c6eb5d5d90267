"""How fast at most, and how slow at least."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from zhcached.clock import Clock, SystemClock
from zhcached.errors import TransportError

_BUCKETS = 16
_BURST_S = 0.1
_STEP_S = 1.0


class SlowError(TransportError):
    """The source sends less than the floor, for too long."""

    fault = "stall"


class RateLimiter:
    """Bytes per second over all threads that share it. Thread-safe.

    A debt is allowed: who takes more than there is waits until it is paid, so that chunks of any
    size pass and the mean is kept.

    Args:
        bytes_per_s: 0 for no limit; what returns it where it changes with the time of day. Debts
            of an earlier rate are forgiven.
        clock: Gives the present.
    """

    def __init__(self, bytes_per_s: int | Callable[[], int], clock: Clock | None = None) -> None:
        self._rate = bytes_per_s
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._paid_until = self._clock.monotonic()
        self._booked_at = self.bytes_per_s

    @property
    def bytes_per_s(self) -> int:
        """The limit at this moment, 0 for none."""
        return self._rate if isinstance(self._rate, int) else self._rate()

    def book(self, count: int) -> float:
        """Takes ``count`` bytes and returns how many seconds to wait before going on."""
        rate = self.bytes_per_s
        if rate <= 0:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            if rate != self._booked_at:
                self._booked_at, self._paid_until = rate, now
            self._paid_until = max(self._paid_until, now - _BURST_S) + count / rate
            return max(0.0, self._paid_until - now)

    def take(self, count: int, cancelled: threading.Event) -> None:
        """Takes ``count`` bytes and waits until they are within the rate, or ``cancelled``."""
        rate, left_s = self.bytes_per_s, self.book(count)
        while left_s > 0 and not cancelled.wait(min(left_s, _STEP_S)):
            # Debts at a low rate may be long; nobody pays them once another rate holds.
            left_s = left_s - _STEP_S if self.bytes_per_s == rate else 0.0


class SpeedFloor:
    """Watches one connection: has it been below a rate for a whole window? One thread.

    Only time spent waiting for the source counts, so that neither the disk nor our own rate limit
    is mistaken for a slow source. A socket's time-out sees silence, never a trickle.

    Args:
        window_s: How long the rate must be too low.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._buckets: deque[list[float]] = deque()
        self._waited_s = 0.0
        self._bytes = 0.0

    def is_below(self, count: int, waited_s: float, min_rate: float) -> bool:
        """Records ``count`` bytes after ``waited_s`` seconds and judges the last window.

        Args:
            count: Bytes that came.
            waited_s: Seconds they were waited for.
            min_rate: Bytes per second; 0 lets anything but silence pass.
        """
        if not self._buckets or self._buckets[-1][0] >= self._window_s / _BUCKETS:
            self._buckets.append([0.0, 0.0])
        self._buckets[-1][0] += waited_s
        self._buckets[-1][1] += count
        self._waited_s += waited_s
        self._bytes += count
        while self._waited_s - self._buckets[0][0] >= self._window_s and len(self._buckets) > 1:
            old_s, old_bytes = self._buckets.popleft()
            self._waited_s -= old_s
            self._bytes -= old_bytes
        return self._waited_s >= self._window_s and self._bytes < max(
            1.0, min_rate * self._waited_s
        )
