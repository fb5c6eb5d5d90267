"""Context parallelism: diffusers' own, for transformers that declare how their sequence is split.

Source: ``enable_parallelism`` and ``diffusers.hooks.context_parallel`` of diffusers 0.42.1,
which calls both experimental.
"""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers.models._modeling_parallel import ContextParallelConfig
from torch.distributed.device_mesh import init_device_mesh

from zhcache.placement.cuts import RING, Cut, check_gathered, check_masked

_UNEVEN = "divisible by mesh size"
_SPLIT = "hidden_states"
_PATCHED = 3
"""Dimensions of tokens: batch, sequence, channels."""


def enable(transformer: Any, cut: Cut, count: int, device: torch.device) -> None:
    """Has every rank of the default process group compute a part of the sequence.

    Args:
        transformer: One that declares a plan; every rank calls this, and later the transformer.
        cut: Ulysses or ring.
        count: Of the ranks.
        device: Where this one's is.

    Raises:
        ValueError: Its attention backend cannot do it. Calls of the transformer raise what
            ``check_masked`` does.
    """
    is_ring = cut.name == RING
    shape = (count, 1) if is_ring else (1, count)
    # Given, since the default is made on the accelerator, whatever device the transformer is on.
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("ring", "ulysses"))
    config = ContextParallelConfig(
        ring_degree=shape[0],
        ulysses_degree=shape[1],
        ulysses_anything=cut.is_padded,
        mesh=mesh,
    )
    # Of torch to diffusers, at every call; nobody here can do anything about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers.hooks")
    with _some_accelerator(count):
        transformer.enable_parallelism(config=config)
    _split_unevenly_if_need_be(
        transformer, config, "ring_anything" if is_ring else "ulysses_anything"
    )
    _check_masks(transformer, cut, count)


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


def _check_masks(transformer: Any, cut: Cut, count: int) -> None:
    split: Callable[..., Any] = transformer.forward

    @functools.wraps(split)
    def forward(*args: Any, **kwargs: Any) -> Any:
        masks = [one for name, one in kwargs.items() if name.endswith("_mask") and one is not None]
        if masks:
            image = args[0] if args else kwargs["hidden_states"]
            # Of a film that is not yet in patches nobody knows the length.
            split_too = [image] if image.dim() == _PATCHED else []
            lengths = {one.shape[1] for one in (*masks, *split_too)}
            check_masked(type(transformer).__name__, cut, count, lengths)
        return split(*args, **kwargs)

    transformer.forward = forward


def check_parts(transformer: Any, count: int, side: int) -> None:
    """Has what is split into parts that gloo cannot put together refused before it is computed.

    Args:
        transformer: One that ``enable`` was given.
        count: Of the ranks.
        side: Pixels along a side of a token, as ``check_gathered`` tells them.
    """
    kind = type(transformer).__name__

    def check(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = args[0] if args else kwargs[_SPLIT]
        if tokens.dim() == _PATCHED:
            check_gathered(kind, tokens.shape[1], count, side)

    for pattern, plan in transformer._cp_plan.items():
        # What goes in by this name comes out again whole; texts beside it need not.
        if isinstance(plan, dict) and _SPLIT in plan:
            named = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
            for name, module in transformer.named_modules():
                if named.fullmatch(name):
                    module.register_forward_pre_hook(check, with_kwargs=True)


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
