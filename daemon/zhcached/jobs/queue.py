"""The queue: accepts, joins, runs, cancels and remembers jobs.

Lives on the event loop. The work itself is synchronous and runs in threads; a ``Control`` is its
one way back. A job is durable before it is acknowledged, and one that had not ended when the
daemon stopped or was killed runs again at the next start.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import structlog

from zhcache.errors import Busy, NotFound, NotPermitted
from zhcache.i18n import mark
from zhcache.protocol.messages import Job
from zhcached.clock import Clock
from zhcached.jobs import state
from zhcached.jobs.control import Closing, Control, Perform
from zhcached.jobs.events import Feed
from zhcached.jobs.history import History
from zhcached.jobs.outcome import outcome
from zhcached.store.catalog import Catalog

MAX_ACTIVE_PER_UID = 64
MAX_DOWNLOADS = 6
MAX_REFRESHES = 2
MAX_LOCAL = 2
MAX_IMPORTS = 4
MAX_WARM = 8
MAX_HISTORY = 500
TICK_S = 0.25
RESTORED = mark("waits until followed models are fetched again")

log = structlog.get_logger()


class _Entry:
    """``rests`` says why the job is not to run for now; empty where it may."""

    def __init__(self, record: state.Record, control: Control) -> None:
        self.record = record
        self.control = control
        self.feed = Feed(state.view(record))
        self.future: Future[None] | None = None
        self.rests = ""


class Jobs:
    """All jobs of this daemon.

    Args:
        catalog: Where records are kept.
        clock: The time.
        perform: Does the work of one record, in a thread.
    """

    def __init__(self, catalog: Catalog, clock: Clock, perform: Perform) -> None:
        self._history = History(catalog, clock)
        self._clock = clock
        self._perform = perform
        self._loop = asyncio.get_running_loop()
        self._entries: dict[str, _Entry] = {}
        self._submitting = asyncio.Lock()
        self._pools = {
            "prefetch": ThreadPoolExecutor(MAX_DOWNLOADS, "prefetch"),
            # What nobody waits for must not keep a user's own prefetch waiting.
            "refresh": ThreadPoolExecutor(MAX_REFRESHES, "refresh"),
            # A client that is slow to send its files must not keep a check or a repair waiting.
            "import": ThreadPoolExecutor(MAX_IMPORTS, "import"),
            "verify": (local := ThreadPoolExecutor(MAX_LOCAL, "local")),
            "repair": local,
            # These wait for each other's disk and for workers, so that a place costs little.
            "warm": ThreadPoolExecutor(MAX_WARM, "warm"),
        }
        self._stopping = False
        self._ticker = self._loop.create_task(self._tick())

    async def restore(self) -> int:
        """Takes up the jobs an earlier daemon left; returns how many run again.

        Those of followed models rest, since they may run only at their hours: see ``resume``.
        """
        again = 0
        for record in await asyncio.to_thread(self._history.load, newest=MAX_HISTORY):
            if record.ended:
                self._admit(record)
                continue
            entry = self._admit(msgspec.structs.replace(record, state=state.Queued()))
            if isinstance(record.task, state.Refresh):
                entry.rests = RESTORED
                continue
            self._start(entry)
            again += 1
        return again

    async def submit(
        self,
        task: state.Task,
        key: str,
        uid: int,
        resource: Closing | None = None,
        rests: str = "",
    ) -> Job:
        """Starts ``task``, or joins the running job with the same key.

        Args:
            task: What to do.
            key: Of an unfinished job with the same key the caller becomes another watcher.
            uid: Who asks.
            resource: Closed when the job has ended, once this has returned.
            rests: Why it is not to run before ``resume``; empty where it may.

        Raises:
            Busy: The caller has too many unfinished jobs.
        """
        async with self._submitting:
            active = [e for e in self._entries.values() if not e.record.ended]
            for entry in active:
                if entry.record.key == key and not entry.control.cancelled.is_set():
                    return msgspec.structs.replace(self._picture(entry), joined=True)
            if _asked_by(uid, active) >= MAX_ACTIVE_PER_UID:
                raise Busy(
                    "you have {count} unfinished jobs, the most one user may have",
                    hint="wait for some to end: zhcache jobs",
                    count=MAX_ACTIVE_PER_UID,
                )
            now = self._clock.wall()
            record = state.Record(uuid.uuid4().hex[:12], key, uid, now, now, task, state.Queued())
            await asyncio.to_thread(self._history.keep, record)
            entry = self._admit(record, resource)
            entry.rests = rests
            if rests:
                self._tell(entry)
            else:
                self._start(entry)
            return self._picture(entry)

    def refreshes(self) -> list[state.Record]:
        """Returns the unfinished jobs of followed models."""
        records = [entry.record for entry in self._entries.values() if not entry.record.ended]
        return [record for record in records if isinstance(record.task, state.Refresh)]

    def rest(self, job_id: str, reason: str) -> None:
        """Stops a job where it is, what came is kept; it stays in the queue until ``resume``."""
        entry = self._entry(job_id)
        if entry.record.ended or entry.rests or entry.control.cancelled.is_set():
            return
        entry.rests = reason
        entry.control.suspended = True
        entry.control.cancelled.set()
        if entry.future is not None:
            entry.future.cancel()
        self._tell(entry)

    async def resume(self, job_id: str) -> None:
        """Lets a job run that rests; does nothing to another."""
        entry = self._entry(job_id)
        if not entry.rests:
            return
        await _over(entry.future)
        if entry.record.ended or not entry.rests or self._stopping:
            return
        entry.rests = ""
        entry.control = self._control(entry, entry.control.resource)
        self._start(entry)

    def find(self, job_id: str) -> Job:
        """Returns one job.

        Raises:
            NotFound: No job has this id.
        """
        return self._picture(self._entry(job_id))

    def all(self, *, ended: bool) -> list[Job]:
        """Returns the jobs, newest first; without ``ended`` only those that still run."""
        entries = [e for e in self._entries.values() if ended or not e.record.ended]
        entries.sort(key=lambda entry: entry.record.created, reverse=True)
        return [self._picture(entry) for entry in entries]

    def follow(self, job_id: str) -> AsyncIterator[Job]:
        """Yields pictures of one job until it has ended."""
        return self._entry(job_id).feed.follow()

    async def cancel(self, job_id: str, *, uid: int, may_all: bool) -> Job:
        """Asks a job to end and waits until it has; what it fetched stays for the next time.

        Raises:
            NotFound: No such job.
            NotPermitted: It is somebody else's.
        """
        entry = self._entry(job_id)
        if not may_all and entry.record.uid != uid:
            raise NotPermitted(
                "job {id} belongs to another user",
                hint="ask uid {owner} or an administrator to cancel it",
                id=job_id,
                owner=entry.record.uid,
            )
        entry.control.cancelled_by = uid
        entry.control.suspended = False
        entry.control.cancelled.set()
        entry.rests = ""
        if entry.future is not None and not entry.future.cancel():
            await _over(entry.future)
        if not entry.record.ended:
            entry.control.close()
            await asyncio.to_thread(self._enter, entry, state.Cancelled(uid))
        return self._picture(entry)

    async def stop(self, grace_s: float = 10.0) -> bool:
        """Puts every running job back into the queue for the next start and ends the threads.

        Returns:
            Whether all of them ended in time; those that did not still use the store.
        """
        self._stopping = True
        self._ticker.cancel()
        waiting: list[asyncio.Future[None]] = []
        for entry in self._entries.values():
            if not entry.record.ended and entry.future is not None:
                # What a user has cancelled stays cancelled, and what rests goes on resting.
                if not entry.control.cancelled.is_set():
                    entry.control.suspended = True
                entry.control.cancelled.set()
                if entry.future.cancel():
                    entry.control.close()
                else:
                    waiting.append(asyncio.wrap_future(entry.future))
        late = (await asyncio.wait(waiting, timeout=grace_s))[1] if waiting else set()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        return not late

    # The steps below run on the loop unless they say otherwise.

    def _entry(self, job_id: str) -> _Entry:
        try:
            return self._entries[job_id]
        except KeyError:
            raise NotFound(
                "there is no job {id}", hint="zhcache jobs lists them", id=job_id[:40]
            ) from None

    def _admit(self, record: state.Record, resource: Closing | None = None) -> _Entry:
        entry = _Entry(record, Control(lambda _: None, resource))
        entry.control = self._control(entry, resource)
        self._entries[record.id] = entry
        self._forget_old()
        return entry

    def _control(self, entry: _Entry, resource: Closing | None) -> Control:
        return Control(lambda step: self._enter(entry, step), resource)

    def _forget_old(self) -> None:
        ended = [e for e in self._entries.values() if e.record.ended]
        ended.sort(key=lambda entry: entry.record.updated)
        for entry in ended[: max(0, len(ended) - MAX_HISTORY)]:
            del self._entries[entry.record.id]

    def _start(self, entry: _Entry) -> None:
        is_refresh = isinstance(entry.record.task, state.Refresh)
        pool = self._pools["refresh" if is_refresh else entry.record.kind]
        entry.future = pool.submit(self._run, entry)

    def _run(self, entry: _Entry) -> None:
        """Does one job to its end, in a thread of its pool."""
        record, control = entry.record, entry.control
        structlog.contextvars.bind_contextvars(job=record.id, repo=record.repo, uid=record.uid)
        try:
            self._enter(entry, outcome(self._perform, record, control))
        except Exception:
            # The index is full or out of order: the job is taken up again at the next start, and
            # whoever waits for it is told now.
            self._loop.call_soon_threadsafe(self._tell, entry)
            log.exception("job.not_recorded")
        finally:
            control.close()
            structlog.contextvars.clear_contextvars()

    def _enter(self, entry: _Entry, step: state.State) -> None:
        """Moves a job to its next state, durably before anybody is told. Called from threads."""
        entry.record = entry.record.step(step, self._clock.wall())
        self._history.keep(entry.record)
        self._loop.call_soon_threadsafe(self._tell, entry)

    def _tell(self, entry: _Entry) -> None:
        entry.feed.post(self._picture(entry))

    def _picture(self, entry: _Entry) -> Job:
        progress = entry.control.progress
        if entry.rests:
            progress = msgspec.structs.replace(progress, rate=0.0, note=entry.rests)
        return state.view(entry.record, progress)

    async def _tick(self) -> None:
        shown: dict[str, state.Progress] = {}
        while True:
            await asyncio.sleep(TICK_S)
            for entry in list(self._entries.values()):
                progress = entry.control.progress
                if not entry.record.ended and shown.get(entry.record.id) is not progress:
                    shown[entry.record.id] = progress
                    self._tell(entry)
            for gone in shown.keys() - self._entries.keys():
                del shown[gone]


def _asked_by(uid: int, active: Iterable[_Entry]) -> int:
    """Returns how many of the jobs a user asked for; what following does by itself is none."""
    return sum(e.record.uid == uid and not isinstance(e.record.task, state.Refresh) for e in active)


async def _over(future: Future[None] | None) -> None:
    """Returns once the thread of a job has ended, however it did."""
    if future is not None:
        await asyncio.wait([asyncio.wrap_future(future)])
