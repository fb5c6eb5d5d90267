"""The queue: accepts, joins, runs, cancels and remembers jobs.

Lives on the event loop. The work itself is synchronous and runs in threads; a ``Control`` is its
one way back. A job is durable before it is acknowledged, and one that had not ended when the
daemon stopped or was killed runs again at the next start.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, get_args

import msgspec
import structlog

from zhcache.errors import Busy, Cancelled, NotFound, NotPermitted, ZhcacheError
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import Job, JobState
from zhcached.clock import Clock
from zhcached.jobs import state
from zhcached.jobs.events import ENDED, Feed
from zhcached.store.catalog import Catalog

MAX_ACTIVE_PER_UID = 64
MAX_DOWNLOADS = 6
MAX_LOCAL = 2
MAX_IMPORTS = 4
MAX_WARM = 8
MAX_HISTORY = 500
KEEP_HISTORY_S = 30 * 86400.0
TICK_S = 0.25

log = structlog.get_logger()
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(state.Record)


class Closing(Protocol):
    """Something a job was given that must be closed however the job ends."""

    def close(self) -> None:
        """Lets go; a second call does nothing."""
        ...


class Control:
    """What the thread that does a job holds of it: its states go out, a stop comes in.

    ``resource`` is what ``submit`` was given beside the task, open until the job has ended.
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


class _Entry:
    def __init__(self, record: state.Record, control: Control) -> None:
        self.record = record
        self.control = control
        self.feed = Feed(state.view(record))
        self.future: Future[None] | None = None


class Jobs:
    """All jobs of this daemon.

    Args:
        catalog: Where records are kept.
        clock: The time.
        perform: Does the work of one record, in a thread; returns how it ended well or raises.
    """

    def __init__(self, catalog: Catalog, clock: Clock, perform: Perform) -> None:
        self._catalog = catalog
        self._clock = clock
        self._perform = perform
        self._loop = asyncio.get_running_loop()
        self._entries: dict[str, _Entry] = {}
        self._submitting = asyncio.Lock()
        self._pools = {
            "prefetch": ThreadPoolExecutor(MAX_DOWNLOADS, "prefetch"),
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
        """Takes up the jobs an earlier daemon left; returns how many run again."""
        again = 0
        for row in await asyncio.to_thread(self._kept):
            try:
                record = _decoder.decode(row)
            except msgspec.MsgspecError as error:
                log.warning("job.unreadable", error=str(error))
                continue
            if record.ended:
                self._admit(record)
                continue
            record = msgspec.structs.replace(record, state=state.Queued())
            self._start(self._admit(record))
            again += 1
        return again

    def _kept(self) -> list[bytes]:
        """Reads the records to start from: all that had not ended, and the newest that had."""
        self._catalog.delete_jobs_before(self._clock.wall() - KEEP_HISTORY_S, ENDED)
        unfinished = [name for name in get_args(JobState) if name not in ENDED]
        rows = self._catalog.load_jobs(unfinished, -1)
        rows += self._catalog.load_jobs(ENDED, MAX_HISTORY)
        return [row for _, row in reversed(rows)]

    async def submit(
        self, task: state.Task, key: str, uid: int, resource: Closing | None = None
    ) -> Job:
        """Starts ``task``, or joins the running job with the same key.

        Args:
            task: What to do.
            key: Of an unfinished job with the same key the caller becomes another watcher.
            uid: Who asks.
            resource: Closed when the job has ended, once this has returned.

        Raises:
            Busy: The caller has too many unfinished jobs.
        """
        async with self._submitting:
            active = [e for e in self._entries.values() if not e.record.ended]
            for entry in active:
                if entry.record.key == key and not entry.control.cancelled.is_set():
                    return msgspec.structs.replace(self._picture(entry), joined=True)
            if sum(e.record.uid == uid for e in active) >= MAX_ACTIVE_PER_UID:
                raise Busy(
                    "you have {count} unfinished jobs, the most one user may have",
                    hint="wait for some to end: zhcache jobs",
                    count=MAX_ACTIVE_PER_UID,
                )
            now = self._clock.wall()
            record = state.Record(uuid.uuid4().hex[:12], key, uid, now, now, task, state.Queued())
            await asyncio.to_thread(self._save, record)
            entry = self._admit(record, resource)
            self._start(entry)
            return self._picture(entry)

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
        entry.control.cancelled.set()
        if entry.future is not None and entry.future.cancel():
            entry.control.close()
            await asyncio.to_thread(self._enter, entry, state.Cancelled(uid))
        async for job in entry.feed.follow():
            if entry.record.ended:
                return job
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
                # What a user has cancelled stays cancelled.
                entry.control.suspended = not entry.control.cancelled.is_set()
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
        control = Control(lambda _: None, resource)
        entry = _Entry(record, control)
        control.enter = lambda step: self._enter(entry, step)
        self._entries[record.id] = entry
        self._forget_old()
        return entry

    def _forget_old(self) -> None:
        ended = [e for e in self._entries.values() if e.record.ended]
        ended.sort(key=lambda entry: entry.record.updated)
        for entry in ended[: max(0, len(ended) - MAX_HISTORY)]:
            del self._entries[entry.record.id]

    def _start(self, entry: _Entry) -> None:
        entry.future = self._pools[entry.record.kind].submit(self._run, entry)

    def _run(self, entry: _Entry) -> None:
        """Does one job to its end, in a thread of its pool."""
        record, control = entry.record, entry.control
        structlog.contextvars.bind_contextvars(job=record.id, repo=record.repo, uid=record.uid)
        try:
            self._enter(entry, self._outcome(record, control))
        except Exception:
            # The index is full or out of order: the job is taken up again at the next start, and
            # whoever waits for it is told now.
            self._loop.call_soon_threadsafe(self._tell, entry)
            log.exception("job.not_recorded")
        finally:
            control.close()
            structlog.contextvars.clear_contextvars()

    def _outcome(self, record: state.Record, control: Control) -> state.State:
        try:
            log.info("job.started", kind=record.kind)
            control.check()
            done = self._perform(record, control)
        except Cancelled:
            if control.suspended:
                return state.Queued()
            log.info("job.cancelled", by=control.cancelled_by)
            return state.Cancelled(control.cancelled_by)
        except ZhcacheError as error:
            log.warning("job.failed", code=error.code, error=str(error))
            return state.Failed(to_info(error), getattr(error, "verify", None))
        except Exception as error:
            log.exception("job.defect")
            defect = ZhcacheError(
                "the daemon met a defect of its own: {kind}: {text}",
                hint="zhcache logs {id} has the details; please report it",
                kind=type(error).__name__,
                text=error,
                id=record.id,
            )
            return state.Failed(to_info(defect))
        log.info("job.done")
        return done

    def _enter(self, entry: _Entry, step: state.State) -> None:
        """Moves a job to its next state, durably before anybody is told. Called from threads."""
        entry.record = entry.record.step(step, self._clock.wall())
        self._save(entry.record)
        self._loop.call_soon_threadsafe(self._tell, entry)

    def _tell(self, entry: _Entry) -> None:
        entry.feed.post(self._picture(entry))

    def _save(self, record: state.Record) -> None:
        self._catalog.save_job(
            job_id=record.id,
            key=record.key,
            kind=record.kind,
            state=state.name(record.state),
            uid=record.uid,
            created=record.created,
            updated=record.updated,
            record=_encoder.encode(record),
        )

    def _picture(self, entry: _Entry) -> Job:
        return state.view(entry.record, entry.control.progress)

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
