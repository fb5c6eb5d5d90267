"""Files on their way to clients of the gateway: each fetched once, whoever waits for it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog

from zhcache.errors import Busy, Cancelled, ZhcacheError
from zhcache.protocol.messages import Trust
from zhcached.clock import Clock
from zhcached.config import ServeConfig
from zhcached.errors import defect
from zhcached.jobs.asking.brief import narrowed
from zhcached.jobs.control import Control
from zhcached.jobs.fetching.gather import Fetcher, Gathering
from zhcached.jobs.fetching.meter import Meter
from zhcached.jobs.pulling.coming import Arrival, Beside
from zhcached.jobs.pulling.listed import Listing
from zhcached.jobs.pulling.patience import Patience
from zhcached.jobs.pulling.possession import Possession, not_shown
from zhcached.jobs.pulling.publishing import Publishing
from zhcached.jobs.pulling.shown import Listed, entry_of, whole_of
from zhcached.sources.base import RemoteFile
from zhcached.store.digest import Committed, Promise

A = TypeVar("A", bound=Arrival)

LARGE_BYTES = 16 * 2**20
LARGE_AT_ONCE = 24
SMALL_AT_ONCE = 16
"""Small files do not wait for large ones: a client needs both to go on. Nor should large ones wait
for one another: a client that sees no byte for long gives up."""

log = structlog.get_logger()


class Arrivals:
    """The files that are fetched now. Thread-safe.

    Args:
        fetcher: Shared with the jobs: one fetch of each set of bytes in the whole daemon.
        listing: Says where the bytes of a file are.
        possession: Says whether what came may be given.
        publishing: Takes what came.
        clock: The time.
        config: What may be served.

    Attributes:
        misses: How many fetches were begun.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        listing: Listing,
        possession: Possession,
        publishing: Publishing,
        clock: Clock,
        config: ServeConfig,
    ) -> None:
        self._fetcher = fetcher
        self._store = fetcher.store
        self._listing = listing
        self._possession = possession
        self._publishing = publishing
        self._clock = clock
        self._config = config
        self._lock = threading.Lock()
        self._coming: dict[str, Arrival] = {}
        self._serial = itertools.count(1)
        self._stopping = threading.Event()
        self._large = ThreadPoolExecutor(LARGE_AT_ONCE, "pull")
        self._small = ThreadPoolExecutor(SMALL_AT_ONCE, "pull-small")
        self._queued: dict[ThreadPoolExecutor, set[Arrival]] = {
            self._large: set(),
            self._small: set(),
        }
        self.misses = 0

    def __len__(self) -> int:
        return len(self._coming)

    def of(self, key: str) -> Arrival | None:
        """Returns the fetch of a promise's bytes that is under way, or ended just now."""
        with self._lock:
            return self._coming.get(key)

    def job(self) -> str:
        """Returns a new name, for which blobs are held until they are published."""
        return f"pull-{next(self._serial)}"

    def join(self, listed: Listed, file: RemoteFile, promise: Promise) -> Arrival:
        """Returns the fetch of a file, begun if none is under way."""
        with self._lock:
            arrival = self._coming.get(promise.key)
            if arrival is None or arrival.error is not None:
                arrival = self._coming[promise.key] = self._new(Arrival, promise)
                self.misses += 1
                pool = self._large if promise.size > LARGE_BYTES else self._small
                self._queued[pool].add(arrival)
                pool.submit(self._fetch, listed, file, arrival, pool)
        return arrival

    def beside(self, promise: Promise) -> Beside:
        """Returns a look at bytes that others bring; nothing is begun."""
        return self._new(Beside, promise).of(promise)

    def stop(self, grace_s: float) -> None:
        """Ends the fetches, which keep what came; waits for them so long."""
        self._stopping.set()
        for pool in (self._large, self._small):
            pool.shutdown(wait=False, cancel_futures=True)
        until = self._clock.monotonic() + grace_s
        while self._coming and self._clock.monotonic() < until:
            threading.Event().wait(0.02)

    def _new(self, kind: type[A], promise: Promise) -> A:
        return kind(
            self._store,
            promise.key,
            promise.size,
            wants=self._fetcher.wants,
            clock=self._clock,
            entitled=self._config.entitled,
        )

    def _is_crowded(self, pool: ThreadPoolExecutor) -> bool:
        with self._lock:
            queued = tuple(self._queued[pool])
        return any(arrival.idle_s() == 0.0 for arrival in queued)

    def _fetch(
        self, listed: Listed, file: RemoteFile, arrival: Arrival, pool: ThreadPoolExecutor
    ) -> None:
        with self._lock:
            self._queued[pool].discard(arrival)
        control = Patience(arrival, self._stopping, partial(self._is_crowded, pool))
        job = self.job()
        structlog.contextvars.bind_contextvars(job=job, repo=listed.repo)
        try:
            control.check()
            found, grade = self._bring(listed, file, control, job)
        except Exception as error:  # noqa: BLE001 - told to all who wait
            self._store.leases.release_holds(job)
            self._forget(arrival)
            arrival.fail(_told(error))
        else:
            arrival.finish(found)
            # Until a manifest names it, what has only git's digest is found by nobody.
            done = partial(self._forget, arrival)
            self._publishing.add(whole_of(listed), entry_of(file, found, grade), job, done)
        finally:
            structlog.contextvars.clear_contextvars()

    def _bring(
        self, listed: Listed, file: RemoteFile, control: Control, job: str
    ) -> tuple[Committed, Trust]:
        known = narrowed(self._listing.brief(listed, file), file.path)
        brief = self._possession.cleared(known)
        meter = Meter(file.size, self._clock)
        gathering = Gathering(self._fetcher, brief, job, control, meter)
        log.info("pull.started", path=file.path, bytes=file.size)
        gathering.run()
        found = gathering.committed[file.path]
        # What others fetched meanwhile, or had begun with, may be a closed model's.
        closed = gathering.closed if gathering.fetched else self._closed_of(found)
        is_open = closed is not None and closed <= {*self._config.entitled}
        if not is_open and not self._possession.may_give(listed, file, found):
            raise not_shown(listed, file)
        return found, gathering.trust()[0].grade

    def _closed_of(self, found: Committed) -> Set[str] | None:
        """Returns which models that are not public a blob came for; None if that is not known."""
        shown = self._fetcher.origins.shown(found.sha256)
        return None if shown is None else shown.closed

    def _forget(self, arrival: Arrival) -> None:
        with self._lock:
            if self._coming.get(arrival.key) is arrival:
                del self._coming[arrival.key]


def _told(error: Exception) -> ZhcacheError:
    if isinstance(error, Cancelled):
        return Busy("the fetch was stopped", hint="ask again")
    if isinstance(error, ZhcacheError):
        return error
    log.exception("pull.defect")
    return defect(error)
