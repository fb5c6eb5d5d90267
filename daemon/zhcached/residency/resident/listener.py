"""A listener of resident pipelines for one who waits in a thread of his own."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence

from zhcache.protocol import residency
from zhcache.protocol.failure import to_error
from zhcache.protocol.frames import close_all

LOOK_S = 0.5


class BlockingListener:
    """A listener that keeps what it hears for one who waits."""

    def __init__(self) -> None:
        self._heard: queue.SimpleQueue[residency.Event] = queue.SimpleQueue()

    def tell(
        self, event: residency.Event, fds: Sequence[int] = (), *, is_last: bool = False
    ) -> None:
        """Keeps the event."""
        del is_last
        close_all(fds)
        self._heard.put(event)

    def is_ready(self, on_progress: Callable[[residency.Progress], None]) -> bool:
        """Waits a moment for an event; tells whether it is that the pipeline is open.

        Raises:
            ZhcacheError: It is that it cannot be.
        """
        try:
            event = self._heard.get(timeout=LOOK_S)
        except queue.Empty:
            return False
        if isinstance(event, residency.Failed):
            raise to_error(event.error)
        if isinstance(event, residency.Progress):
            on_progress(event)
        return isinstance(event, residency.Opened)
