"""All watched folders: which they are, who may change that, and how they stand."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import structlog

from zhcache.errors import NotPermitted, ZhcacheError
from zhcache.protocol.failure import to_info
from zhcache.protocol.watch import WatchedFolder
from zhcached.clock import Clock
from zhcached.config import WatchConfig
from zhcached.jobs.queue import Jobs
from zhcached.store.store import Store
from zhcached.watch import beneath
from zhcached.watch.listed import Listed
from zhcached.watch.notices import Notices
from zhcached.watch.tamper import Guard
from zhcached.watch.tend import Context, Tended

MAX_AT_ONCE = 2

log = structlog.get_logger()


class Watching:
    """The watched folders and the guard over the store's own files. Lives on the event loop.

    Args:
        store: Where models are taken in.
        jobs: What takes them in.
        config: ``[watch]``.
        clock: The time.
    """

    def __init__(self, store: Store, jobs: Jobs, config: WatchConfig, clock: Clock) -> None:
        self._notices = Notices()
        self.problems: list[ZhcacheError] = []
        """What of the list of folders could not be read, for ``doctor``."""
        self.guard = Guard(store, self._notices, self._lost)
        self._listed = Listed(store.layout.root, config.folders)
        if self._listed.damaged is not None:
            self.problems.append(self._listed.damaged)
            log.error("watch.list_damaged", reason=self._listed.damaged.message)
        self._context = Context(
            store=store,
            jobs=jobs,
            config=config,
            clock=clock,
            notices=self._notices,
            gate=asyncio.Semaphore(MAX_AT_ONCE),
        )
        self._tended: dict[Path, Tended] = {}
        self._refused: dict[Path, ZhcacheError] = {}
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        self._changing = asyncio.Lock()
        self._guarding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins with the listed folders; one that may not be watched says why in ``ls``."""
        self._guarding = asyncio.create_task(self.guard.run())
        for folder in self._listed.all():
            try:
                parsed = await asyncio.to_thread(self._listed.parse, str(folder))
            except ZhcacheError as error:
                log.warning("watch.refused", folder=str(folder), reason=error.message)
                self._refused[folder] = error
                continue
            # A user may have been quicker, to add it again or to take it away.
            if folder in self._listed.all() and parsed not in self._tended:
                self._begin(parsed)

    async def stop(self) -> None:
        """Ends all looking; jobs that are under way end with the queue."""
        tasks = [*self._tasks.values(), *([self._guarding] if self._guarding else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.to_thread(self._notices.close)

    def all(self) -> list[WatchedFolder]:
        """Returns every watched folder as it stands."""
        found = [one.shown() for one in self._tended.values()]
        found += [
            WatchedFolder(
                folder=str(folder), state="unreadable", configured=True, reason=to_info(error)
            )
            for folder, error in self._refused.items()
        ]
        begun = {*self._tended, *self._refused}
        found += [
            WatchedFolder(
                folder=str(folder), state="starting", configured=folder in self._listed.configured
            )
            for folder in self._listed.all()
            if folder not in begun
        ]
        return sorted(found, key=lambda one: one.folder)

    async def add(self, text: str, *, may_all: bool) -> WatchedFolder:
        """Watches a folder from now on, and after a restart.

        Raises:
            NotPermitted: The caller is neither root nor the daemon's user, with whose rights it
                would be read; or the daemon cannot read it.
            NotFound: There is no such folder.
            UsageError: It may not be watched.
        """
        _check(may_all=may_all)
        async with self._changing:
            folder = await asyncio.to_thread(self._readable, text)
            if await asyncio.to_thread(self._listed.add, folder):
                log.info("watch.added", folder=str(folder))
            if folder not in self._tended:
                self._refused.pop(folder, None)
                self._begin(folder)
            return self._tended[folder].shown()

    async def remove(self, text: str, *, may_all: bool) -> None:
        """Watches a folder no more; what was taken of it stays.

        Raises:
            NotPermitted: The caller is neither root nor the daemon's user.
            NotFound: It is not watched.
            UsageError: The configuration names it.
        """
        _check(may_all=may_all)
        async with self._changing:
            folder = Path(text)
            await asyncio.to_thread(self._listed.remove, folder)
            log.info("watch.removed", folder=text)
            self._refused.pop(folder, None)
            task, tended = self._tasks.pop(folder, None), self._tended.pop(folder, None)
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            if tended is not None:
                await asyncio.to_thread(tended.memory.drop)

    def _readable(self, text: str) -> Path:
        folder = self._listed.parse(text)
        beneath.check_readable(folder)
        return folder

    def _begin(self, folder: Path) -> None:
        tended = Tended(folder, self._context, configured=folder in self._listed.configured)
        self._tended[folder] = tended
        self._tasks[folder] = asyncio.create_task(tended.run())

    def _lost(self, sha256: str) -> None:
        """Has what the store lost taken in again, where it still lies in a watched folder."""
        for tended in list(self._tended.values()):
            tended.memory.forget(sha256)
            tended.wake()


def _check(*, may_all: bool) -> None:
    if not may_all:
        raise NotPermitted(
            "only the daemon's own user and root may change what is watched",
            hint="the daemon reads watched folders with its own rights; for yours there is"
            " `zhcache import DIR`",
        )
