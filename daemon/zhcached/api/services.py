"""What the resources of the API may use."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from zhcached.clock import Clock
from zhcached.config import Config
from zhcached.jobs.planner import Planner
from zhcached.jobs.prefetch import Prefetcher
from zhcached.jobs.queue import Jobs
from zhcached.store.store import Store


@dataclass(slots=True)
class Services:
    """The daemon's parts, joined once by ``app``."""

    config: Config
    clock: Clock
    store: Store
    jobs: Jobs
    prefetcher: Prefetcher
    planner: Planner
    log_file: Path
    home: Path
    started: float
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
