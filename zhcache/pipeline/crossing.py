"""Doors of modules that lie elsewhere than their pipeline: tensors are carried in, and back out.

The weights are in their place when doors are put on, and stay there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import find_device, send_to_device

METHODS = ("decode", "encode", "generate", "get_image_features", "get_text_features")
"""What pipelines call of components beside ``forward``."""

_BLOCK = re.compile(r"(.*?\.\d+)(?:\.|$)")


class Door(AlignDevicesHook):
    """Carries a module's inputs to ``device``, and its output to where the inputs came from."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, io_same_device=True)

    def init_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        """Leaves the weights alone: accelerate would set each of them anew."""
        return module


def open_doors(module: torch.nn.Module, device: torch.device, *, has_layers: bool = False) -> None:
    """Puts doors on a component that lies on ``device``.

    Args:
        module: The component.
        device: Where it lies.
        has_layers: Also on its layers outside numbered blocks, as pipelines call those of text
            encoders by themselves.
    """
    if has_layers:
        for name, layer in module.named_modules():
            if name and not _BLOCK.match(name) and layer._parameters:
                add_hook_to_module(layer, Door(device))
    add_hook_to_module(module, Door(device))
    for name in METHODS:
        method = getattr(module, name, None)
        if callable(method):
            setattr(module, name, _through(method, device))


def cut(module: torch.nn.Module, shares: Mapping[str, int]) -> dict[str, str]:
    """Moves a module's blocks to several devices, the rest to the first; returns where each is.

    Args:
        module: In host memory.
        shares: Bytes of it for each device, as ``pieces`` takes them.
    """
    home, *_ = shares
    where = pieces(_sizes(module), shares)
    for name, device in where.items():
        if name:
            block = module.get_submodule(name).to(device)
            if device != home:
                add_hook_to_module(block, Door(torch.device(device)))
    for name, part in module.named_modules():
        if not _BLOCK.match(name):
            part._apply(lambda tensor: tensor.to(home), recurse=False)
    return where


def pieces(sizes: Mapping[str, int], shares: Mapping[str, int]) -> dict[str, str]:
    """Returns the device of each block: the largest first, each where most is left. Pure.

    So what a device has beyond its share is less than the smallest of its blocks. Their order in
    the module does not matter, as each block's output goes back.

    Args:
        sizes: Bytes of each block, and under ``""`` of what is in none, which is on the first.
        shares: Bytes for each device; reckoned as parts of all.
    """
    total, whole = sum(sizes.values()), sum(shares.values())
    left = {device: share * total / whole for device, share in shares.items()}
    home, *_ = shares
    left[home] -= sizes.get("", 0)
    where = {"": home}
    for name in sorted(sizes.keys() - {""}, key=lambda name: (-sizes[name], name)):
        where[name] = device = max(left, key=lambda device: left[device])
        left[device] -= sizes[name]
    return where


def _sizes(module: torch.nn.Module) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        found = _BLOCK.match(name)
        # A parameter in a list of parameters is numbered, and is no module that could have a door.
        block = found[1] if found and found.end() < len(name) else ""
        sizes[block] = sizes.get(block, 0) + tensor.nbytes
    return sizes


def _through(method: Any, device: torch.device) -> Any:
    @functools.wraps(method)
    def carried(*args: Any, **options: Any) -> Any:
        origin = find_device([args, options])
        made = method(*send_to_device(args, device), **send_to_device(options, device))
        return made if origin is None else _back(made, origin)

    return carried


def _back(made: Any, origin: torch.device) -> Any:
    """Returns an output on ``origin``; accelerate knows no distributions, which encoders return."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    if isinstance(made, DiagonalGaussianDistribution):
        return type(made)(made.parameters.to(origin), made.deterministic)
    if type(made) is tuple:
        return tuple(_back(one, origin) for one in made)
    if hasattr(made, "latent_dist"):
        return type(made)(latent_dist=_back(made.latent_dist, origin))
    return send_to_device(made, origin)
