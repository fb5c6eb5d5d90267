"""What the handlers of every protocol stand on."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from aiohttp import web

from zhcache.errors import Busy
from zhcache.protocol.names import RepoId
from zhcached.clock import Clock
from zhcached.config import ServeConfig
from zhcached.gateway.pace import Pace
from zhcached.gateway.share import Share
from zhcached.jobs.pulling.pull import Listed, Pulls
from zhcached.store.store import Store
from zhcached.swarm.own import OwnTorrents

THREADS = 256
"""Requests that may wait for sources at once. A thread that waits costs little; one that is missing
would let everybody wait for the slowest hub."""

WAITING = THREADS // 4
"""Of one address: who asks for a thousand things and leaves must not keep all others waiting."""

ASKER: ContextVar[str] = ContextVar("asker", default="")
"""The address that a request comes from."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Traffic:
    """What went over the gateway since it was started; belongs to its loop."""

    bytes: int = 0
    requests: int = 0
    refused: int = 0


@dataclass(slots=True)
class Context:
    """The gateway's parts. Made by ``Gateway``; lives as long as one serving.

    ``torrents`` are those that peers are told of; ``stall_s`` is how long a client may read nothing
    before it is cut; ``questions`` is how much each address may have the sources asked.
    """

    pulls: Pulls
    store: Store
    config: ServeConfig
    clock: Clock
    pace: Pace
    torrents: OwnTorrents | None = None
    stall_s: float = 60.0
    traffic: Traffic = field(default_factory=Traffic)
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, "gateway")
    )
    questions: Share = field(init=False)
    _waiting: Counter[str] = field(default_factory=Counter[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.questions = Share(self.config.questions, self.clock)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs what blocks in a thread.

        Raises:
            Busy: Too much that this address asked for is still waited for.
            ZhcacheError: What it raises.
        """
        asker = ASKER.get()
        with self._lock:
            if self._waiting[asker] >= WAITING:
                raise Busy("too many requests of this address wait for sources", hint="ask again")
            self._waiting[asker] += 1

        def end(_: Future[T]) -> None:
            with self._lock:
                self._waiting[asker] -= 1
                if not self._waiting[asker]:
                    del self._waiting[asker]

        work = self.threads.submit(function, *args, **kwargs)
        # Not when the client is gone: the thread waits on all the same.
        work.add_done_callback(end)
        return await asyncio.wrap_future(work)

    async def listed(self, repo: RepoId, revision: str | None) -> Listed:
        """Returns what a repository is; whoever asks for too many that are not known waits.

        Raises:
            ZhcacheError: As ``Pulls.listed``.
        """
        asker = ASKER.get()

        def count() -> None:
            if self.questions.take(asker) is not None:
                raise Busy(
                    "this address had the sources asked about too much",
                    hint="ask again in a minute; [serve] questions of the machine that serves it "
                    "says how much",
                )

        return await self.call(self.pulls.listed, repo, revision, count)


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
