"""A rank's part of a request: its device, the weights that lie there, its cores."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy
import torch

from zhcache.protocol.residency import Load
from zhcached.workers import cores
from zhcached.workers.loading import Held, device_of, load
from zhcached.workers.parallel.splitting import Splitting, join


@dataclass(frozen=True)
class Seat:
    """Which rank this process is.

    Attributes:
        rank: Its number.
        count: Of all ranks.
        folder: Where they meet.
    """

    rank: int
    count: int
    folder: Path


def part_of(request: Load, fds: Sequence[int], rank: int) -> tuple[Load, list[int]]:
    """Returns what a rank is to load, and which of the descriptors go with it.

    Artifacts are rank 0's, which alone gives back what it compiles.
    """
    device = request.devices[rank]
    beside = zip(request.arenas, fds, strict=False)
    mine = [(arena, fd) for arena, fd in beside if arena.device == device]
    takes_artifacts = request.artifacts and rank == 0
    own = msgspec.structs.replace(
        request,
        device=device,
        devices=[],
        arenas=[arena for arena, _ in mine],
        artifacts=takes_artifacts,
    )
    return own, [fd for _, fd in mine] + (list(fds[-1:]) if takes_artifacts else [])


def load_part(
    request: Load, fds: Sequence[int], seat: Seat, note: Callable[[str], None]
) -> tuple[Held, Splitting]:
    """Returns the pipeline of this rank, and how its denoiser is split; every rank calls this.

    Args:
        request: As ``part_of`` returned it.
        fds: What goes with it; stays the caller's.
        seat: Which rank it is.
        note: Told what is being done.

    Raises:
        UsageError: There is no way to split this pipeline.
        RuntimeError: The other ranks did not come.
        Exception: What ``zhcached.workers.loading.load`` raises.
    """
    if request.device == "cpu":
        _keep_to_cores(seat)
    device = device_of(request.device)
    note("the ranks meet")
    join(seat.folder, seat.rank, seat.count, device)
    held = load(request, fds, note)
    return held, Splitting(held.as_class(None), device, request.attention)


def _keep_to_cores(seat: Seat) -> None:
    # All of them wait for the slowest, hence none may take the cores of another.
    mine = cores.share(os.sched_getaffinity(0), seat.rank, seat.count)
    os.sched_setaffinity(0, mine)
    torch.set_num_threads(len(mine))


def draw_alike(number: int) -> None:
    """Has everything that draws without a seed draw from ``number``, on every rank the same."""
    torch.manual_seed(number)
    random.seed(number)
    numpy.random.seed(number % 2**32)
