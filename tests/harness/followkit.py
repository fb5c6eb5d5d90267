"""Following in this process: real hubs, a real store, real jobs; the clock and the chance are ours.

The event loop runs in a thread, so that tests read from top to bottom.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path

import msgspec

from harness.convertkit import ConvertLauncher, variants_of
from harness.fillkit import Control
from harness.storekit import Clock, open_store
from zhcache.protocol.follow import Followed, FollowRequest
from zhcache.protocol.messages import PrefetchRequest
from zhcache.protocol.names import parse_repo
from zhcached.config import DownloadConfig, FollowConfig, SourceConfig
from zhcached.convert.pickled import Pickles
from zhcached.jobs import state
from zhcached.jobs.asking.health import Health
from zhcached.jobs.fetching.gather import Fetcher
from zhcached.jobs.following.follow import Follows
from zhcached.jobs.following.ledger import Ledger
from zhcached.jobs.following.wishes import Following
from zhcached.jobs.perform import Performer
from zhcached.jobs.prefetch import Prefetcher, key_of
from zhcached.jobs.queue import Jobs
from zhcached.sources.registry import build, configured_origins
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Transport

DEADLINE_S = 20.0
OWNER = 7


class Front:
    """The parts of a daemon that following needs.

    Args:
        folder: Where its store is.
        hubs: Each with its kind, in order of preference.
        config: Of ``[follow]``.
    """

    def __init__(self, folder: Path, *hubs, clock: Clock | None = None, **config) -> None:
        self.folder = folder
        self.clock = clock or Clock()
        self.minute = 0
        self.control = Control(folder / "workers")
        self._hubs = [hub if isinstance(hub, tuple) else (hub, "huggingface") for hub in hubs]
        self.config = FollowConfig(**{"jitter": 0.0, "every": 100.0, **config})
        self.loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> Front:
        began = threading.Event()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.call(self._start())
        began.set()
        return self

    async def _start(self) -> None:
        sources = tuple(SourceConfig(h.name, kind, h.url) for h, kind in self._hubs)
        self.store = open_store(self.folder / "store", self.clock)
        self.launcher = ConvertLauncher(self.control)
        self._transport = Transport(AddressPolicy(configured_origins(sources)), connect_timeout_s=2)
        limits = DownloadConfig(stall=2.0, connections=2)
        health = Health(self.store.catalog, sources, self.clock)
        fetcher = Fetcher(self.store, self._transport, limits, health)
        variants = variants_of(self.store, self.clock, self.launcher)
        pickles = Pickles(self.store, self.launcher, variants.places, make_room=fetcher.make_room)
        self.prefetcher = Prefetcher(
            fetcher, build(sources, self._transport), {}, self.clock, variants, pickles
        )
        self.ledger = Ledger(self.store.layout.root, self.clock)
        performer = Performer(self.store, self.prefetcher, None, None, self.ledger.claim)
        self.jobs = Jobs(self.store.catalog, self.clock, performer.perform)
        self.follows = Follows(
            self.ledger,
            self.config,
            clock=self.clock,
            jobs=self.jobs,
            store=self.store,
            prefetcher=self.prefetcher,
            draw=lambda: 0.5,
            minute=lambda _: self.minute,
        )
        self.following = Following(self.follows, self.store, self.clock)
        await self.jobs.restore()
        self._running = asyncio.create_task(self.follows.run())

    def stop(self) -> None:
        """Ends it as the daemon does; its store can be opened anew."""
        if self.loop is None:
            return
        self.call(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.close()
        self.loop = None

    async def _stop(self) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running
        assert await self.jobs.stop(DEADLINE_S)
        until(self.follows.stop, "the looks have ended")
        self.launcher.close()
        self._transport.close()
        self.store.close()
        await asyncio.get_running_loop().shutdown_default_executor()

    def restart(self) -> None:
        self.stop()
        self.start()

    def call(self, work):
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE_S)

    def follow(self, repo: str, uid: int = OWNER, *, may_all: bool = False, **said) -> Followed:
        request = FollowRequest(repo=repo, **said)
        return self.call(self.following.follow(request, uid, may_all=may_all))

    def unfollow(self, repo: str, uid: int = OWNER, *, may_all: bool = False) -> Followed:
        return self.call(self.following.unfollow(repo, uid, may_all=may_all))

    def state(self, repo: str) -> Followed:
        (found,) = [one for one in self.all() if one.repo == repo]
        return found

    def all(self) -> list[Followed]:
        async def ask():
            return self.following.all()

        return self.call(ask())

    def all_jobs(self):
        async def ask():
            return self.jobs.all(ended=True)

        return self.call(ask())

    def fetches(self, repo: str):
        """Returns the jobs that following began for a model, the newest first."""
        jobs = [job for job in self.all_jobs() if job.repo == repo]
        return [job for job in jobs if job.revision and len(job.revision) == 40]

    def prefetch(self, repo: str, uid: int = 99, **said):
        """Fetches as a user does, and waits."""

        async def whole():
            request = PrefetchRequest(repo=repo, **said)
            job = await self.jobs.submit(state.Prefetch(request), key_of(request), uid)
            return [picture async for picture in self.jobs.follow(job.id)][-1]

        return self.call(whole())

    def pass_s(self, seconds: float) -> None:
        """Lets time pass, and what is due begin."""
        self.clock.pass_s(seconds)
        self.wake()

    def wake(self) -> None:
        self.loop.call_soon_threadsafe(self.follows.wake)

    def hours(self, text: str) -> None:
        """Sets ``[follow] hours``."""
        self.follows.config = msgspec.structs.replace(self.config, hours=text)
        self.wake()

    def at(self, minute: int) -> None:
        self.minute = minute
        self.wake()

    def ref(self, repo: str, ref: str = "main") -> str | None:
        return self.store.manifests.refs(parse_repo(repo)).get(ref)

    def here(self, repo: str) -> set[str]:
        """Returns the commits of a repository that are here, without variants."""
        return {one.commit for one in self.store.snapshots() if one.repo == repo}

    def settled(self, repo: str, *states: str) -> Followed:
        """Waits until the model has been looked at since now and is at rest in such a state."""
        wanted = states or ("fresh",)

        def found():
            seen = self.state(repo)
            is_over = seen.state in wanted and (seen.next or 0) > self.clock.now
            return seen if is_over and repo not in self.follows.looking else None

        return until(found, f"{repo} is {' or '.join(wanted)}")


def until(claim, meaning: str):
    """Waits for ``claim()`` to be true; returns its value."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if value := claim():
            return value
        time.sleep(0.005)
    raise AssertionError(f"waited {DEADLINE_S} s in vain until {meaning}")
