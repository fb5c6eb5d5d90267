"""Followed models: looked at in their turn, fetched when they change, pruned once they have.

Lives on the event loop. The looks run in threads, the fetches are jobs like any other, and what
must outlive the daemon is in the ledger. What is decided is decided elsewhere, purely: when to look
in ``schedule``, what is news in ``look``, what goes in ``outdated``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import structlog

from zhcache.errors import Cancelled, ZhcacheError
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import ErrorInfo, Job
from zhcached.clock import Clock
from zhcached.config import FollowConfig
from zhcached.config.hours import is_open, minute_of_day
from zhcached.errors import defect
from zhcached.jobs.following import schedule
from zhcached.jobs.following.fetches import Fetch, Fetches
from zhcached.jobs.following.followed import Entry
from zhcached.jobs.following.ledger import Ledger
from zhcached.jobs.following.look import Seen, look
from zhcached.jobs.following.outdated import prune
from zhcached.jobs.prefetch import Prefetcher
from zhcached.jobs.queue import Jobs
from zhcached.store.store import Store

MAX_LOOKS = 2
LONGEST_SLEEP_S = 20.0
"""After which a clock that was put forward, or the hours, are noticed at the latest."""

log = structlog.get_logger()


class Follows:
    """Keeps followed models fresh.

    Args:
        ledger: Which they are.
        config: ``[follow]``.
        clock: The time.
        jobs: Does the fetching.
        store: Where the models are.
        prefetcher: Asks the sources.
        draw: The chance.
        minute: The local minute of the day at a moment.
    """

    def __init__(
        self,
        ledger: Ledger,
        config: FollowConfig,
        *,
        clock: Clock,
        jobs: Jobs,
        store: Store,
        prefetcher: Prefetcher,
        draw: schedule.Draw = random.random,
        minute: Callable[[float], int] = minute_of_day,
    ) -> None:
        self.ledger = ledger
        self.config = config
        self.fetches = Fetches(jobs, ledger, store, self._spawn, self._over, self.wake)
        self.looking: set[str] = set()
        self._clock = clock
        self._store = store
        self._prefetcher = prefetcher
        self._draw = draw
        self._minute = minute
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(MAX_LOOKS, "follow")
        self._asking: set[Future[Seen]] = set()

    def wake(self) -> None:
        """Has what is due begun now."""
        self._woken.set()

    def every(self, entry: Entry) -> float:
        """Returns the seconds between two looks at a model."""
        return entry.every if entry.every is not None else self.config.every

    def keep(self, entry: Entry) -> int:
        """Returns how many earlier revisions of a model stay."""
        return entry.keep if entry.keep is not None else self.config.keep

    async def run(self) -> None:
        """Goes on until cancelled."""
        try:
            await self._begin()
            while True:
                left_s = self._safe_step()
                # Not wait_for, which may swallow a cancellation that comes together with the event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._woken.wait()
                self._woken.clear()
        finally:
            self._stopping.set()
            for task in self._tasks:
                task.cancel()

    def stop(self) -> bool:
        """Ends all looks; tells whether none is under way any more."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        return all(future.done() for future in self._asking)

    def step(self) -> float:
        """Begins what is due, and returns after how many seconds something may be again."""
        now = self._clock.wall()
        self.fetches.take_turns(is_open=is_open(self.config.hours, self._minute(now)))
        left_s = LONGEST_SLEEP_S
        for entry in self.ledger.all():
            fetch = self.fetches.find(entry.repo)
            if entry.repo in self.looking or (fetch is not None and fetch.runs):
                continue
            due = schedule.believed(entry.due, now, self.every(entry), self.config.jitter)
            if due != entry.due:
                self.ledger.reschedule({entry.repo: due})
            if due > now:
                left_s = min(left_s, due - now)
            elif len(self.looking) < MAX_LOOKS:
                self.looking.add(entry.repo)
                self._spawn(self._look(entry))
        return left_s

    def _safe_step(self) -> float:
        try:
            return self.step()
        except Exception:
            # One model that cannot be looked at must not end the following of the rest.
            log.exception("follow.defect")
            return LONGEST_SLEEP_S

    async def _begin(self) -> None:
        """Takes up what an earlier daemon left, its looks one after the other."""
        now = self._clock.wall()
        await self.fetches.restore()
        late = sorted((e for e in self.ledger.all() if e.due <= now), key=lambda entry: entry.due)
        missed = {entry.repo: self.every(entry) for entry in late}
        self.ledger.reschedule(schedule.spread(missed, now, self._draw))

    async def _look(self, entry: Entry) -> None:
        try:
            await self._seen(entry, await self._in_thread(entry))
        except Cancelled:
            return
        except ZhcacheError as error:
            log.warning("follow.look_failed", repo=entry.repo, error=str(error))
            await self._failed(entry.repo, to_info(error))
        except Exception as error:
            log.exception("follow.defect", repo=entry.repo)
            await self._failed(entry.repo, to_info(defect(error)))
        finally:
            self.looking.discard(entry.repo)
            self.wake()

    async def _in_thread(self, entry: Entry) -> Seen:
        def run() -> Seen:
            structlog.contextvars.bind_contextvars(repo=entry.repo, uid=entry.uid)
            try:
                return look(self._store, self._prefetcher, entry, self._check)
            finally:
                structlog.contextvars.clear_contextvars()

        future = self._pool.submit(run)
        self._asking.add(future)
        future.add_done_callback(self._asking.discard)
        return await asyncio.wrap_future(future)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise Cancelled("the daemon stops")

    async def _seen(self, entry: Entry, seen: Seen) -> None:
        now = self._clock.wall()
        current = self.ledger.find(entry.repo)
        if current is None or current.request != entry.request:
            return
        log.info("follow.looked", repo=entry.repo, commit=seen.commit, news=seen.is_wanting)
        if seen.is_wanting:
            await self.fetches.begin(current, seen)
            await self._note(entry.repo, lambda e: self._looked(e, now))
            return
        await self.fetches.drop(entry.repo)
        await self._fresh(entry.repo, seen.commit, seen, looked=now)

    async def _over(self, repo: str, fetch: Fetch, job: Job) -> None:
        entry = self.ledger.find(repo)
        if entry is None:
            return
        if job.state != "done":
            stopped = Cancelled("its fetch was cancelled; the next look begins another")
            await self._failed(repo, job.error or to_info(stopped))
        elif await self._means(entry) == fetch.task.commit:
            await self._fresh(repo, fetch.task.commit, fetch.seen, was=fetch.task.was)
        else:
            # Somebody moved the ref meanwhile: what it means now is for the next look to tell.
            now = self._clock.wall()
            await self._note(repo, lambda e: msgspec.structs.replace(e, due=now))

    async def _means(self, entry: Entry) -> str | None:
        refs = await asyncio.to_thread(self._store.manifests.refs, entry.repo_id)
        return refs.get(entry.ref)

    async def _fresh(
        self,
        repo: str,
        commit: str,
        seen: Seen | None,
        *,
        was: str | None = None,
        looked: float | None = None,
    ) -> None:
        """Records that all is here, and lets go what is outdated."""

        def fresh(entry: Entry) -> Entry:
            heads = seen.heads if seen else {}
            entry = entry.fresh(commit, seen.vouchers if seen else (), heads, was)
            return entry if looked is None else self._looked(entry, looked)

        entry = await self._note(repo, fresh)
        if entry is None:
            return
        gone = await asyncio.to_thread(prune, self._store, entry, self.keep(entry))
        await self._note(repo, lambda e: e.without(gone))

    async def _failed(self, repo: str, error: ErrorInfo) -> None:
        now = self._clock.wall()
        await self._note(repo, lambda e: self._looked(e.failed(error, now), now))

    def _looked(self, entry: Entry, now: float) -> Entry:
        """Returns the entry after a look, the next one due."""
        every_s, jitter = self.every(entry), self.config.jitter
        pause_s = schedule.pause(every_s, entry.failures, jitter, self._draw)
        return msgspec.structs.replace(entry, looked=now, due=now + pause_s)

    async def _note(self, repo: str, change: Callable[[Entry], Entry]) -> Entry | None:
        return await asyncio.to_thread(self.ledger.note, repo, change)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(_told(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _told(work: Coroutine[object, object, None]) -> None:
    """Does ``work``; an error that nobody foresaw ends it, and not the following of the rest."""
    try:
        await work
    except Exception:
        log.exception("follow.defect")
