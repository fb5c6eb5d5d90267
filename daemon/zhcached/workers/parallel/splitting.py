"""A pipeline whose denoiser is run by several ranks: the group they form, and how it is split."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from zhcache.placement import activation
from zhcache.placement.cuts import CFG, Cut, Denoiser, check_doubled, choose
from zhcache.placement.families import family_of
from zhcached.workers.parallel import context
from zhcached.workers.parallel.guidance import GuidanceSplit

_DENOISERS = ("transformer", "transformer_2", "unet")

WAITS = timedelta(hours=1)
"""How long one rank may wait for another: compiling takes minutes, and a death is seen at once."""

_ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_IB_DISABLE": "1",
    # Its segments would lie in /dev/shm, which is everybody's.
    "NCCL_SHM_DISABLE": "1",
    # It hands over memory by Unix sockets, which a rank may not make; handles of CUDA's IPC do.
    "NCCL_CUMEM_ENABLE": "0",
}


def join(folder: Path, rank: int, count: int, device: torch.device) -> None:
    """Makes this process a rank of the default process group; returns once all are in it.

    Args:
        folder: Where the ranks meet, empty before and the same for all of them.
        rank: This one's number.
        count: Of all.
        device: Where this one computes.

    Raises:
        RuntimeError: The others did not come.
    """
    os.environ.update(_ENVIRONMENT)
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if is_cuda else "gloo",
        init_method=f"file://{folder / 'ranks'}",
        rank=rank,
        world_size=count,
        timeout=WAITS,
        device_id=device if is_cuda else None,
    )


class Splitting:
    """How a pipeline's denoisers are split over the default process group.

    Every rank makes one of the same pipeline, and then the same calls.

    Args:
        pipeline: On its device.
        device: That device.
        attention: The attention backend that was asked for.

    Attributes:
        way: What was chosen.
        guidance: The splits of guidance, one for each denoiser; none where it is another way.

    Raises:
        UsageError: There is no way for this pipeline.
        ValueError: Its attention backend cannot do it.
    """

    def __init__(self, pipeline: Any, device: torch.device, attention: str | None = None) -> None:
        rank, count = dist.get_rank(), dist.get_world_size()
        parts = [getattr(pipeline, name, None) for name in _DENOISERS]
        denoisers = [part for part in parts if isinstance(part, torch.nn.Module)]
        known = [_known(part, pipeline) for part in denoisers]
        # A pipeline that has none is refused by its name.
        known = known or [Denoiser("", type(pipeline).__name__, has_plan=False)]
        cuts = [choose(one, count, attention) for one in known]
        self.way: Cut = cuts[0]
        self.guidance: list[GuidanceSplit] = []
        for denoiser, cut in zip(denoisers, cuts, strict=False):
            if cut.name == CFG:
                self.guidance.append(GuidanceSplit(denoiser, rank))
                continue
            context.enable(denoiser, cut, count, device)
            if device.type == "cpu":
                context.check_parts(denoiser, count, _side(denoiser, pipeline))

    def check(self, pipeline: Any) -> None:
        """Refuses another pipeline over the same denoisers that must not be split.

        Raises:
            UsageError: ``pipeline`` is one.
        """
        if self.guidance:
            check_doubled(type(pipeline).__name__)

    def __str__(self) -> str:
        return f"{self.way.name} over {dist.get_world_size()} devices: {self.way.why}"


def _known(denoiser: Any, pipeline: Any) -> Denoiser:
    return Denoiser(
        class_name=type(denoiser).__name__,
        pipeline=type(pipeline).__name__,
        has_plan=getattr(denoiser, "_cp_plan", None) is not None,
        heads=getattr(denoiser.config, "num_attention_heads", None),
    )


def _side(denoiser: Any, pipeline: Any) -> int:
    """Returns how many pixels a token stands for, along a side."""
    kind, vae = type(denoiser).__name__, getattr(getattr(pipeline, "vae", None), "config", {})
    known = activation.known
    return activation.side(known(dict(denoiser.config)), known(dict(vae)), family_of(kind))
