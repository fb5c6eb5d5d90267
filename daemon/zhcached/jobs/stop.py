"""Stopping for either of two reasons."""

from __future__ import annotations

import threading
import time

STEP_S = 0.2


class Either(threading.Event):
    """Set when the job is cancelled or a sister file has failed."""

    def __init__(self, first: threading.Event, second: threading.Event) -> None:
        super().__init__()
        self._first = first
        self._second = second

    def is_set(self) -> bool:
        """Whether either is set."""
        return self._first.is_set() or self._second.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for either, in steps, since two events cannot be waited for at once."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = STEP_S if end is None else min(STEP_S, end - time.monotonic())
            if left <= 0:
                break
            self._first.wait(left)
        return self.is_set()
