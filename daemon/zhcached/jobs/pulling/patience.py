"""How long a file is fetched for which nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

from zhcached.jobs.control import Control
from zhcached.jobs.pulling.coming import Arrival

GRACE_S = 60.0
"""A file for which nobody has waited so long is not fetched further; what came of it is kept."""

CROWDED_S = 2.0
"""The same, while somebody waits for another file to be begun."""


class Patience(Control):
    """Ends a fetch for which nobody waits any more, and all when the daemon stops.

    Args:
        arrival: What is fetched.
        stopping: The daemon ends.
        is_crowded: Tells whether somebody waits for a fetch that there is no room to begin.
    """

    def __init__(
        self, arrival: Arrival, stopping: threading.Event, is_crowded: Callable[[], bool]
    ) -> None:
        super().__init__(lambda _: None, None)
        self._arrival = arrival
        self._stopping = stopping
        self._is_crowded = is_crowded

    def check(self) -> None:
        """Raises Cancelled if the fetch is to end."""
        idle_s = self._arrival.idle_s()
        is_late = idle_s > GRACE_S or (idle_s > CROWDED_S and self._is_crowded())
        if self._stopping.is_set() or is_late:
            self.cancelled.set()
        super().check()
