"""What the resources of the API may use."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zhcached.clock import Clock
from zhcached.config import Config
from zhcached.jobs.asking.probe import Prober
from zhcached.jobs.following.wishes import Following
from zhcached.jobs.giving import Giving
from zhcached.jobs.planner import Planner
from zhcached.jobs.prefetch import Prefetcher
from zhcached.jobs.queue import Jobs
from zhcached.jobs.seeding import Seeding
from zhcached.residency.arena.arenas import Arenas
from zhcached.residency.door import Residency
from zhcached.residency.launch.launch import Launcher
from zhcached.residency.resident.residents import Residents
from zhcached.store.store import Store

if TYPE_CHECKING:
    from zhcached.gateway.gateway import Gateway
    from zhcached.watch.watching import Watching


@dataclass(slots=True)
class Services:
    """The daemon's parts, joined once by ``app``.

    ``host`` says how weights reach the CPU (``zhcache.protocol.messages.Lease``).
    """

    config: Config
    clock: Clock
    store: Store
    jobs: Jobs
    prefetcher: Prefetcher
    prober: Prober
    planner: Planner
    log_file: Path
    home: Path
    started: float
    residency: Residency
    arenas: Arenas
    residents: Residents
    gateway: Gateway
    launcher: Launcher
    following: Following
    giving: Giving
    seeding: Seeding
    watching: Watching
    host: Literal["files", "arenas"]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
