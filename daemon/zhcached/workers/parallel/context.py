"""Context parallelism: diffusers' own, for transformers that declare how their sequence is split.

Source: ``enable_parallelism`` and ``diffusers.hooks.context_parallel`` of diffusers 0.42.1,
which calls both experimental.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers.models._modeling_parallel import ContextParallelConfig
from torch.distributed.device_mesh import init_device_mesh

from zhcached.workers.parallel.ways import RING, Way

_UNEVEN = "divisible by mesh size"


def enable(transformer: Any, way: Way, count: int, device: torch.device) -> None:
    """Has every rank of the default process group compute a part of the sequence.

    Args:
        transformer: One that declares a plan; every rank calls this, and later the transformer.
        way: Ulysses or ring.
        count: Of the ranks.
        device: Where this one's is.

    Raises:
        ValueError: Its attention backend cannot do it.
    """
    is_ring = way.name == RING
    shape = (count, 1) if is_ring else (1, count)
    # Given, since the default is made on the accelerator, whatever device the transformer is on.
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("ring", "ulysses"))
    config = ContextParallelConfig(
        ring_degree=shape[0],
        ulysses_degree=shape[1],
        ulysses_anything=way.is_padded,
        mesh=mesh,
    )
    # Of torch to diffusers, at every call; nobody here can do anything about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers.hooks")
    with _some_accelerator(count):
        transformer.enable_parallelism(config=config)
    _split_unevenly_if_need_be(
        transformer, config, "ring_anything" if is_ring else "ulysses_anything"
    )


def _split_unevenly_if_need_be(
    transformer: Any, config: ContextParallelConfig, setting: str
) -> None:
    even: Callable[..., Any] = transformer.forward

    @functools.wraps(even)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if getattr(config, setting):
            return even(*args, **kwargs)
        try:
            return even(*args, **kwargs)
        except AssertionError as error:
            # The shapes are the same on every rank, hence so is where it ends: nobody waits.
            if _UNEVEN not in str(error):
                raise
        setattr(config, setting, True)
        try:
            return even(*args, **kwargs)
        finally:
            setattr(config, setting, False)

    transformer.forward = forward


@contextlib.contextmanager
def _some_accelerator(count: int) -> Iterator[None]:
    """Lets ``enable_parallelism`` number devices, which without a GPU divides by their count of 0.

    diffusers 0.42.1: ``rank % torch.accelerator.device_count()``; the number is never used.
    """
    if torch.accelerator.device_count():
        yield
        return
    plain = torch.accelerator.device_count
    torch.accelerator.device_count = lambda: count
    try:
        yield
    finally:
        torch.accelerator.device_count = plain
