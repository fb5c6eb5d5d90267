"""Dry runs: answered while the caller waits, by threads of their own.

A dry run asks hubs and may take as long as they like, and a caller who hangs up frees nothing:
the thread goes on. So each user may have a few, counted until the thread has ended, and nobody
else's call waits for them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from zhcache.errors import Busy
from zhcache.protocol.messages import PrefetchPlan, PrefetchRequest
from zhcached.jobs.prefetch import Prefetcher

MAX_AT_ONCE = 8
MAX_PER_UID = 4


class Planner:
    """Runs plans. ``plan`` belongs to the event loop."""

    def __init__(self, prefetcher: Prefetcher) -> None:
        self._prefetcher = prefetcher
        self._pool = ThreadPoolExecutor(MAX_AT_ONCE, "plan")
        self._lock = threading.Lock()
        self._running: Counter[int] = Counter()

    async def plan(self, request: PrefetchRequest, uid: int) -> PrefetchPlan:
        """Returns what a prefetch would do.

        Raises:
            Busy: This user has several under way.
            ZhcacheError: As ``Prefetcher.plan``.
        """
        with self._lock:
            if self._running[uid] >= MAX_PER_UID:
                raise Busy(
                    "you have {count} dry runs under way, the most one user may have",
                    hint="wait for them to end and try again",
                    count=MAX_PER_UID,
                )
            self._running[uid] += 1
        running = self._pool.submit(self._run, request, uid)
        return await asyncio.shield(asyncio.wrap_future(running))

    def stop(self) -> bool:
        """Takes no more; tells whether none is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            return not any(self._running.values())

    def _run(self, request: PrefetchRequest, uid: int) -> PrefetchPlan:
        try:
            return self._prefetcher.plan(request)
        finally:
            with self._lock:
                self._running[uid] -= 1
