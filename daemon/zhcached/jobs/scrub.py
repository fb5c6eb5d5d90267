"""The slow scrub: every blob is read again in its turn, so slowly that nobody notices.

Disks lose bits in files that nobody reads for months. One blob at a time, the longest unread
first, a slice a second; what turns out damaged goes to quarantine, and ``doctor`` says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import structlog

from zhcache.errors import Cancelled, ZhcacheError
from zhcached.clock import Clock
from zhcached.store.store import Store

LOOK_EVERY_S = 60.0
RATE_BYTES_PER_S = 16 * 2**20

log = structlog.get_logger()


class Scrub:
    """Reads what has not been read for ``every_s``; 0 reads nothing.

    Args:
        store: Whose blobs.
        every_s: The age of the last reading at which a blob is due, in seconds.
        clock: The time.
        rest: Waits so many seconds, or until told to stop; for tests.
    """

    def __init__(
        self,
        store: Store,
        every_s: float,
        clock: Clock,
        rest: Callable[[float], object] | None = None,
    ) -> None:
        self._store = store
        self._every_s = every_s
        self._clock = clock
        self._stop = threading.Event()
        self._rest = rest or self._stop.wait

    async def run(self) -> None:
        """Goes on until cancelled."""
        while self._every_s > 0:
            read = await asyncio.to_thread(self.next)
            await asyncio.sleep(0 if read else LOOK_EVERY_S)

    def stop(self) -> None:
        """Ends a reading that is under way, and all later ones."""
        self._stop.set()

    def next(self) -> bool:
        """Reads the blob that is most overdue; False if none is."""
        if self._stop.is_set():
            return False
        try:
            sha256 = self._store.checks.overdue(self._clock.wall() - self._every_s)
            if sha256 is None:
                return False
            if self._store.checks.recheck(sha256, self._slowly) is False:
                log.error("scrub.damaged", sha256=sha256)
        except Cancelled:
            return False
        except (ZhcacheError, OSError) as error:
            log.warning("scrub.failed", error=str(error))
            return False
        return True

    def _slowly(self, count: int) -> None:
        self._rest(count / RATE_BYTES_PER_S)
        if self._stop.is_set():
            raise Cancelled("the daemon stops")
