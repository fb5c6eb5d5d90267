"""The fetches of followed models: jobs that run a few at a time, at their hours, else rest.

Lives on the event loop. Each is a job in the queue and no more than that: this says which may run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

import msgspec

from zhcache.i18n import mark
from zhcache.protocol.messages import Job
from zhcached.jobs import state
from zhcached.jobs.following.followed import Entry
from zhcached.jobs.following.ledger import Ledger
from zhcached.jobs.following.look import Seen
from zhcached.jobs.queue import MAX_REFRESHES, Jobs
from zhcached.store.store import Store

CLOSED = mark("waits for the hours at which followed models are fetched")
TURN = mark("waits until other followed models are fetched")


@dataclass(slots=True)
class Fetch:
    """The unfinished job of one followed model.

    Attributes:
        job: Its id.
        task: What it does.
        seen: The look that found what it fetches, None for one of an earlier daemon.
        runs: Whether it may run; otherwise it rests.
        is_ours: It was ended from here, so its end is no failure.
    """

    job: str
    task: state.Refresh
    seen: Seen | None = None
    runs: bool = False
    is_ours: bool = False


class Fetches:
    """At most one for each followed model.

    Args:
        jobs: The queue.
        ledger: Which models are followed.
        store: Where they are.
        spawn: Does something beside, until the daemon stops.
        over: Told of each that ended, with the last picture of its job.
        wake: Has turns taken again.
    """

    def __init__(
        self,
        jobs: Jobs,
        ledger: Ledger,
        store: Store,
        spawn: Callable[[Coroutine[object, object, None]], None],
        over: Callable[[str, Fetch, Job], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._ledger = ledger
        self._store = store
        self._spawn = spawn
        self._over = over
        self._wake = wake
        self._of: dict[str, Fetch] = {}

    def find(self, repo: str) -> Fetch | None:
        """Returns the fetch of a model that is not over."""
        return self._of.get(repo)

    async def restore(self) -> None:
        """Takes up the jobs that an earlier daemon left; they rest until ``take_turns``."""
        for record in self._jobs.refreshes():
            assert isinstance(record.task, state.Refresh)
            entry = self._ledger.find(record.repo)
            for sha256 in entry.held if entry else ():
                self._store.leases.hold(record.id, sha256)
            self._attend(record.repo, Fetch(record.id, record.task))
            if entry is None or entry.request != record.task.request:
                await self.drop(record.repo)

    def take_turns(self, *, is_open: bool) -> None:
        """Lets as many run as may, or none where it is not the hour.

        Args:
            is_open: Whether it is.
        """
        running = sum(fetch.runs for fetch in self._of.values())
        for fetch in self._of.values():
            if fetch.runs and not is_open:
                self._jobs.rest(fetch.job, CLOSED)
                fetch.runs = False
            elif not fetch.runs and is_open and running < MAX_REFRESHES:
                fetch.runs = True
                running += 1
                self._spawn(self._jobs.resume(fetch.job))

    async def begin(self, entry: Entry, seen: Seen) -> None:
        """Has what a look found fetched, in place of something older that still waits.

        Raises:
            ZhcacheError: The job cannot be recorded.
        """
        task = state.Refresh(entry.request, seen.commit, seen.is_git, seen.was)
        under_way = self._of.get(entry.repo)
        if under_way is not None and (under_way.runs or under_way.task == task):
            return
        await self.drop(entry.repo)
        manifest = self._store.layout.manifest(entry.repo_id, seen.commit)
        if not await asyncio.to_thread(manifest.exists):
            # Before the job: what it brings must never be taken for a user's own.
            await asyncio.to_thread(
                self._ledger.note, entry.repo, lambda e: e.bringing(seen.commit)
            )
        job = await self._jobs.submit(task, f"refresh {entry.repo}", entry.uid, rests=TURN)
        self._attend(entry.repo, Fetch(job.id, task, seen))
        now = self._ledger.find(entry.repo)
        if now is None or now.request != entry.request:
            await self.drop(entry.repo)

    async def drop(self, repo: str) -> None:
        """Ends the fetch of a model, if there is one; what came of it may be collected."""
        fetch = self._of.pop(repo, None)
        if fetch is not None:
            fetch.is_ours = True
            await self._jobs.cancel(fetch.job, uid=-1, may_all=True)

    def _attend(self, repo: str, fetch: Fetch) -> None:
        self._of[repo] = fetch
        self._wake()
        self._spawn(self._until_over(repo, fetch))

    async def _until_over(self, repo: str, fetch: Fetch) -> None:
        last: Job | None = None
        async for picture in self._jobs.follow(fetch.job):
            last = picture
            if picture.state == "queued" and not fetch.runs:
                await self._keep(repo, fetch)
        self._store.leases.release_holds(fetch.job)
        if not fetch.is_ours and last is not None:
            await self._over(repo, fetch, last)
            # Only now: up to here nobody may take what was remembered for what is.
            if self._of.get(repo) is fetch:
                del self._of[repo]
            self._wake()

    async def _keep(self, repo: str, fetch: Fetch) -> None:
        """Records what came of a fetch that rests: a daemon that is started meanwhile keeps it."""
        held = tuple(sorted(self._store.leases.held_by(fetch.job)))
        await asyncio.to_thread(
            self._ledger.note, repo, lambda e: msgspec.structs.replace(e, held=held)
        )
