"""One watched folder's life: it is looked at when something changed, and what is whole is taken in.

Lives on the event loop; looks and files' bytes are left to threads. Notices of changes only wake
it: what is there is always found by looking, so that a notice that was lost loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from zhcache.errors import (
    Cancelled,
    IntegrityError,
    NotFound,
    NotPermitted,
    UsageError,
    ZhcacheError,
)
from zhcache.protocol.failure import to_error, to_info
from zhcache.protocol.messages import Job, PrefetchResult
from zhcache.protocol.names import RepoId, parse_repo, printable
from zhcache.protocol.watch import FolderState, WatchedFolder, WatchedModel
from zhcached.clock import Clock
from zhcached.config import WatchConfig
from zhcached.jobs import state
from zhcached.jobs.queue import Jobs
from zhcached.store.store import Store
from zhcached.watch.incoming import FromFolder
from zhcached.watch.looking import Look, Looking
from zhcached.watch.memory import Kept, Memory, Taken
from zhcached.watch.notices import Notices
from zhcached.watch.standing import Standing
from zhcached.watch.tree import TooMuch

UNTOLD_S = 900.0
"""After this long a folder is looked at though the kernel told of nothing: a file that is written
through a mapping tells of nothing."""

_LONGEST_PAUSE_S = 1.0
_FOR_GOOD = (IntegrityError, NotPermitted, UsageError, Cancelled)
"""What another attempt cannot mend while nothing in the folder changes."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Context:
    """What every watched folder needs. ``gate`` bounds how many models are taken in at once."""

    store: Store
    jobs: Jobs
    config: WatchConfig
    clock: Clock
    notices: Notices
    gate: asyncio.Semaphore


class Tended:
    """One watched folder.

    Args:
        folder: Its path.
        context: What it needs.
        configured: Whether the configuration names it.
    """

    def __init__(self, folder: Path, context: Context, *, configured: bool) -> None:
        self.folder = folder
        self.memory = Memory(context.store.layout.root / "watched", folder)
        self._context = context
        self._configured = configured
        self._state: FolderState = "starting"
        self._reason: ZhcacheError | None = None
        self._standing: dict[str, Standing] = {}
        self._refused: dict[str, ZhcacheError] = {}
        self._dirty = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._looking = Looking(
            folder,
            self.memory,
            is_held=self._is_held,
            notices=context.notices,
            on_change=self.wake,
            settle_s=context.config.settle,
            clock=context.clock,
        )

    def wake(self) -> None:
        """Has the folder looked at soon. Thread-safe."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._dirty.set)

    def shown(self) -> WatchedFolder:
        """Returns it as ``watch ls`` shows it."""
        polling = self._looking.polling
        refused = [
            WatchedModel(
                where=printable(where).strip("'") or ".",
                repo="",
                state="waiting" if error.code == "incomplete" else "refused",
                reason=to_info(error),
            )
            for where, error in sorted(self._refused.items())
        ]
        return WatchedFolder(
            folder=str(self.folder),
            state=self._state,
            mode="polling" if polling else "events",
            polling=to_info(polling) if polling else None,
            configured=self._configured,
            reason=to_info(self._reason) if self._reason else None,
            models=[one.shown() for _, one in sorted(self._standing.items())] + refused,
        )

    async def run(self) -> None:
        """Goes on until cancelled."""
        try:
            while True:
                self._dirty.clear()
                began = self._context.clock.monotonic()
                try:
                    wait_s = await self._once()
                except Exception:
                    # A defect, or a disk that fails: neither ends the watch.
                    log.exception("watch.defect", folder=str(self.folder))
                    wait_s = self._context.config.poll
                took_s = self._context.clock.monotonic() - began
                await self._wait(wait_s)
                # A folder that never rests is not looked at without rest, and however long a
                # look at it takes, it leaves the disk to others for twice as long.
                shortest_s = min(_LONGEST_PAUSE_S, self._context.config.settle / 4)
                await asyncio.sleep(max(shortest_s, 2 * took_s))
        finally:
            await asyncio.to_thread(self._looking.close)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            # Not wait_for: in Python 3.11 it may swallow the cancellation that ends us.
            async with asyncio.timeout(seconds):
                await self._dirty.wait()

    async def _once(self) -> float:
        """Looks, and takes in what is ready; returns how long to wait for a change."""
        try:
            seen = await asyncio.to_thread(self._looking.look, self._standing)
        except ZhcacheError as error:
            self._lost(error)
            return self._context.config.poll
        if self._state != "watched":
            log.info("watch.watched", folder=str(self.folder))
        self._state, self._reason = "watched", None
        self._tell_news(seen)
        self._standing, self._refused = seen.standing, seen.refused
        for where in seen.ready:
            await self._take(where)
        longest = self._context.config.poll if self._looking.polling else UNTOLD_S
        return min(seen.wake_s, longest) if not seen.ready else 0.0

    def _lost(self, error: ZhcacheError) -> None:
        """Notes that the folder cannot be looked at. What was taken of it stays."""
        was = self._state
        if isinstance(error, TooMuch):
            self._state = "too_much"
        else:
            self._state = "gone" if isinstance(error, NotFound) else "unreadable"
        if was != self._state:
            log.warning("watch.lost", folder=str(self.folder), reason=error.message)
        self._reason = error
        self._standing, self._refused = {}, {}

    def _tell_news(self, seen: Look) -> None:
        for where, one in seen.standing.items():
            before = self._standing.get(where)
            if one.state == "waiting" and (before is None or before.state != "waiting"):
                reason = one.reason.message if one.reason else ""
                log.info("watch.waiting", folder=str(self.folder), where=where, reason=reason)
        for where, error in seen.refused.items():
            if where not in self._refused:
                shown = printable(where)
                log.warning(
                    "watch.refused", folder=str(self.folder), where=shown, reason=str(error)
                )

    async def _take(self, where: str) -> None:
        async with self._context.gate:
            standing = self._standing[where]
            try:
                taken = await self._import(standing)
            except ZhcacheError as error:
                for_good = isinstance(error, _FOR_GOOD)
                self._standing[where] = standing.failed(
                    error,
                    for_good=for_good,
                    now=self._context.clock.monotonic(),
                    pause_s=self._context.config.poll,
                )
                return
        # The next look compares what is there with this, and says so.
        await asyncio.to_thread(self.memory.keep, where, taken)

    async def _import(self, standing: Standing) -> Taken:
        """Takes a model in by a job.

        Raises:
            ZhcacheError: As the job ended, or that there are too many.
        """
        model = standing.model
        before = self.memory.of(model.where)
        incoming = FromFolder(self.folder, model, before.files if before else {})
        task = state.Import(str(model.repo), model.commit, model.revision, str(self.folder))
        key = f"watch {self.folder} {model.where} {standing.rest.fingerprint}"
        job = await self._context.jobs.submit(task, key, os.geteuid(), incoming)
        self._standing[model.where] = replace(standing, job=job.id)
        result = await self._ended(job)
        kept = await asyncio.to_thread(self._kept, model.repo, result)
        return Taken(
            repo=str(model.repo),
            source=model.commit,
            revision=model.revision,
            commit=result.commit,
            ref=result.revision if result.revision != result.commit else None,
            files={
                path: Kept(incoming.after.get(path, held.identity), kept.get(path, ""))
                for path, held in model.files.items()
            },
        )

    async def _ended(self, job: Job) -> PrefetchResult:
        async for seen in self._context.jobs.follow(job.id):
            job = seen
        if job.error is not None:
            raise to_error(job.error)
        if job.result is None:
            raise Cancelled("the job was cancelled")
        return job.result

    def _kept(self, repo: RepoId, result: PrefetchResult) -> dict[str, str]:
        manifest = self._context.store.manifests.read(repo, result.commit)
        return {file.path: file.sha256 for file in manifest.files}

    def _is_held(self, taken: Taken) -> bool:
        layout = self._context.store.layout
        return layout.manifest(parse_repo(taken.repo), taken.commit).exists()
