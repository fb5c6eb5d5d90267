"""How fast bytes come: a mean over the last moments in which they were asked for. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_S: Final = 1.0
_STEP_S: Final = WINDOW_S / 8
# Before this the mean says how the first packets came in, not how fast the source is.
_LEAST_S: Final = 0.1


class Pace:
    """Bytes per second over the last ``WINDOW_S``, without the time in which nothing was asked.

    Silence counts: a stalled sender's pace falls to 0 within the window. The caller holds a lock.
    """

    def __init__(self) -> None:
        self._running = 0
        self._active_s = 0.0
        self._since = 0.0
        self._steps: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self._has_come = False

    @property
    def has_begun(self) -> bool:
        """Whether anything was ever asked for."""
        return self._running > 0 or self._active_s > 0

    def go(self, now: float) -> None:
        """Something is asked for, besides what is asked already."""
        if self._running == 0:
            self._since = now
        self._running += 1

    def stop(self, now: float) -> None:
        """One thing that was asked for came, or is given up."""
        self._running -= 1
        if self._running == 0:
            self._active_s += now - self._since

    def add(self, count: int, now: float) -> None:
        """Bytes came."""
        at = self._active(now)
        self._bytes += count
        self._has_come = True
        if self._steps and at - self._steps[-1][0] < _STEP_S:
            began, before = self._steps[-1]
            self._steps[-1] = (began, before + count)
        else:
            self._steps.append((at, count))

    def rate(self, now: float) -> float | None:
        """Returns bytes per second; None before the first byte, and too soon after it to tell."""
        at = self._active(now)
        if at < _LEAST_S or not self._has_come:
            return None
        while self._steps and at - self._steps[0][0] > WINDOW_S:
            self._bytes -= self._steps.popleft()[1]
        return self._bytes / min(at, WINDOW_S)

    def _active(self, now: float) -> float:
        return self._active_s + (now - self._since if self._running else 0.0)
