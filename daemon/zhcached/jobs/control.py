"""What a job's thread and the queue have of each other while the job runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from zhcache.errors import Cancelled
from zhcached.jobs import state


class Closing(Protocol):
    """Something a job was given that must be closed however the job ends."""

    def close(self) -> None:
        """Lets go; a second call does nothing."""
        ...


class Control:
    """What the thread that does a job holds of it: its states go out, a stop comes in.

    ``resource`` is what ``submit`` was given beside the task, open until the job has ended.
    ``cancelled`` with ``suspended`` means that the job goes on later, without it that it ends,
    because the user ``cancelled_by`` asked.
    """

    def __init__(self, enter: Callable[[state.State], None], resource: Closing | None) -> None:
        self.resource = resource
        self.cancelled = threading.Event()
        self.suspended = False
        self.cancelled_by = -1
        self.progress = state.Progress()
        self.enter = enter

    def check(self) -> None:
        """Raises Cancelled if the job is to end; called between steps of the work."""
        if self.cancelled.is_set():
            raise Cancelled("the job was cancelled")

    def close(self) -> None:
        """Closes what the job was given."""
        if self.resource is not None:
            self.resource.close()


Perform = Callable[[state.Record, Control], state.Done]
"""Does the work of one record, in a thread; returns how it ended well or raises."""
