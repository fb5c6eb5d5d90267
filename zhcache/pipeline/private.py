"""Weights of one's own in place of shared ones, before something writes into them.

A GPU's arenas are mapped for reading: a kernel that writes there ends the process's CUDA context.
What torch and diffusers have a door for is caught at that door, and what is about to be written is
copied first: ``load_state_dict``, optimizers, ``fuse_lora`` of the pipeline. Whoever writes by
himself (``p.data.mul_(2)``, ``pipe.unet.fuse_lora()``) calls ``make_private`` before. On the CPU
none of this is needed: pages that are written become the process's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from zhcache.errors import UsageError
from zhcache.pipeline import mapping, wrapping

Target = TypeVar("Target")

_is_watching = False


def make_private(target: Target) -> Target:
    """Gives a module, or all modules of a pipeline, weights of their own; returns it.

    The parameters stay the same objects: ties, optimizers and hooks see the copies. Costs the
    memory of the weights; those that are private already stay as they are.

    Raises:
        UsageError: It is neither.
    """
    for module in _modules(target):
        own(module.parameters())
    return target


def own(parameters: Iterable[torch.Tensor]) -> None:
    """Copies those that lie in an arena."""
    for parameter in parameters:
        if not mapping.is_shared(parameter):
            continue
        # Setting the data of one that wraps others leaves those as they are.
        for field, part in wrapping.inner(parameter).items():
            setattr(parameter, field, part.clone())
        if not wrapping.inner(parameter):
            parameter.data = parameter.data.clone()


def guard(module: torch.nn.Module) -> None:
    """Has weights that cannot be written copied before torch writes them."""
    global _is_watching  # noqa: PLW0603 - torch's hook is the process's as well
    for part in module.modules():
        if any(True for _ in part.parameters(recurse=False)):
            part.register_load_state_dict_pre_hook(_before_load)
    if not _is_watching:
        _is_watching = True
        register_optimizer_step_pre_hook(_before_step)


def before_fusing(pipeline: Any) -> None:
    """Copies the weights that adapters of a pipeline would be fused into."""
    for module in _modules(pipeline):
        for part in module.modules():
            # PEFT's layers, known by what is used of them here: PEFT itself may be absent.
            base = getattr(part, "base_layer", None)
            if isinstance(base, torch.nn.Module) and hasattr(part, "merge"):
                own(p for p in base.parameters() if mapping.is_read_only(p))


def _modules(target: Any) -> list[torch.nn.Module]:
    if isinstance(target, torch.nn.Module):
        return [target]
    parts = getattr(target, "components", None)
    if not isinstance(parts, dict):
        raise UsageError(
            "{kind} is neither a module nor a pipeline",
            hint="give it a pipeline of zhcache.load_pipeline, or one of its modules",
            kind=type(target).__name__,
        )
    return [part for part in parts.values() if isinstance(part, torch.nn.Module)]


def _before_load(
    module: torch.nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: dict[str, Any],
    *_: Any,
) -> None:
    if metadata.get("assign_to_params_buffers"):
        return
    held = module.named_parameters(recurse=False)
    own(p for name, p in held if prefix + name in state and mapping.is_read_only(p))


def _before_step(optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        own(p for p in group["params"] if mapping.is_read_only(p))
