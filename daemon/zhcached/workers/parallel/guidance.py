"""The split of classifier-free guidance: half of the doubled batch for each of two processes.

Pipelines with guidance call their denoiser with the batch twice: without the prompt, then with it.
The images of a batch do not look at each other in a denoiser, hence the halves can be computed
apart and put together afterwards. Tensor code on top of a process group; knows nothing of workers.

Source: ``StableDiffusionPipeline.__call__``, ``latent_model_input = torch.cat([latents] * 2)``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist

RANKS = 2


class GuidanceSplit:
    """A denoiser whose even batches are computed by two processes.

    Both must call it with the same arguments, and both get the whole result.

    Args:
        denoiser: A module whose first parameter is the noisy batch ``(2n, ...)``.
        rank: 0 or 1: which half is this process's.
        group: The process group of both; None is the default one.

    Attributes:
        is_on: Whether batches are split at all; one that looks across the batch must not be.
        splits: How many calls were split, ever.
    """

    def __init__(
        self, denoiser: torch.nn.Module, rank: int, group: dist.ProcessGroup | None = None
    ) -> None:
        self.is_on = True
        self.splits = 0
        self._rank = rank
        self._group = group
        whole: Callable[..., Any] = denoiser.forward
        first = next(iter(inspect.signature(whole).parameters))

        @functools.wraps(whole)
        def forward(*args: Any, **kwargs: Any) -> Any:
            batch = (args[0] if args else kwargs[first]).shape[0]
            if not self.is_on or batch % RANKS:
                return whole(*args, **kwargs)
            self.splits += 1
            mine, named = halved((args, kwargs), batch, self._rank)
            return self._gathered(whole(*mine, **named))

        # On the object, where ``Module.__call__`` and hooks find it.
        denoiser.forward = forward

    def _gathered(self, half: Any) -> Any:
        if isinstance(half, torch.Tensor):
            half = half.contiguous()
            halves = [torch.empty_like(half) for _ in range(RANKS)]
            dist.all_gather(halves, half, group=self._group)
            return torch.cat(halves)
        if isinstance(half, tuple):
            return tuple(map(self._gathered, half))
        # An output class of diffusers: a dictionary with fields.
        return type(half)(**{name: self._gathered(value) for name, value in half.items()})


def halved(value: Any, batch: int, rank: int) -> Any:
    """Returns this rank's half of whatever in ``value`` is as long as the batch; the rest as it is.

    Looks into tuples, lists and dictionaries. A tensor of no dimension belongs to all.

    Args:
        value: Arguments of a denoiser.
        batch: How many the whole batch has; even.
        rank: 0 or 1.
    """
    if isinstance(value, torch.Tensor):
        if value.dim() == 0 or value.shape[0] != batch:
            return value
        half = batch // RANKS
        return value[rank * half : (rank + 1) * half]
    if isinstance(value, (tuple, list)):
        parts = [halved(one, batch, rank) for one in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, Mapping):
        return {name: halved(one, batch, rank) for name, one in value.items()}
    return value
