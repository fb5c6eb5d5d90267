"""What the handlers of every protocol stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from aiohttp import web

from zhcached.clock import Clock
from zhcached.config import ServeConfig
from zhcached.gateway.pace import Pace
from zhcached.jobs.pull import Pulls
from zhcached.store.store import Store

THREADS = 256
"""Requests that may wait for sources at once. A thread that waits costs little; one that is missing
would let everybody wait for the slowest hub."""

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

    ``stall_s`` is how long a client may read nothing before it is cut.
    """

    pulls: Pulls
    store: Store
    config: ServeConfig
    clock: Clock
    pace: Pace
    stall_s: float = 60.0
    traffic: Traffic = field(default_factory=Traffic)
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, "gateway")
    )

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs what blocks in a thread.

        Raises:
            ZhcacheError: What it raises.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, lambda: function(*args, **kwargs))


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
