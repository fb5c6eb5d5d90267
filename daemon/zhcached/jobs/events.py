"""News of jobs to any number of readers, none of whom can slow the work or fill memory.

A reader who falls behind misses intermediate pictures and never the last one: what is kept for
each job is the newest picture and a counter, not a queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from zhcache.protocol.messages import Job

ENDED = ("done", "failed", "cancelled")


class Feed:
    """The newest picture of one job. Lives on the event loop; only ``post`` has a thread's door."""

    def __init__(self, first: Job) -> None:
        self._job = first
        self._serial = 0
        self._changed = asyncio.Event()

    @property
    def newest(self) -> Job:
        """The last picture posted."""
        return self._job

    def post(self, job: Job) -> None:
        """Replaces the picture and wakes every reader."""
        self._job = job
        self._serial += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, heartbeat_s: float = 10.0) -> AsyncIterator[Job]:
        """Yields the picture now, then each newer one, and ends after the last.

        A picture is repeated after ``heartbeat_s`` without news, so that a reader can tell a quiet
        job from a dead daemon.
        """
        while True:
            serial, job = self._serial, self._job
            yield job
            if job.state in ENDED:
                return
            while self._serial == serial:
                changed = self._changed
                try:
                    await asyncio.wait_for(changed.wait(), heartbeat_s)
                except TimeoutError:
                    break
