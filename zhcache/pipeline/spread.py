"""Carries out a plan on a pipeline in this process: devices, doors, and what is refused after."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from zhcache.errors import UsageError
from zhcache.pipeline import crossing, lean
from zhcache.placement.devices import CPU
from zhcache.placement.model import phase_of
from zhcache.protocol.placement import Placed

_REFUSED = (
    "to",
    "enable_model_cpu_offload",
    "enable_sequential_cpu_offload",
    "enable_group_offload",
    "remove_all_hooks",
    "reset_device_map",
)

_kinds: dict[type, type] = {}


def homes(placed: Placed) -> dict[str, torch.device]:
    """Returns where each component's weights are attached: pieces are made of the host's."""
    return {
        name: torch.device(part.device if part.use == "whole" else CPU)
        for name, part in placed.components.items()
    }


def arrange(pipeline: Any, placed: Placed) -> Any:
    """Returns ``pipeline`` as ``placed`` says: a split one runs, and stays where it is.

    Args:
        pipeline: Its components' weights are where ``homes`` says; others are moved.
        placed: A plan of one process.
    """
    home = torch.device(placed.workers[0])
    if placed.tiled:
        pipeline.vae.enable_tiling()
        pipeline.vae.enable_slicing()
    modules = {
        name: part
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    waiting = {name for name, part in placed.components.items() if part.use == "streamed"}
    where: dict[str, str] = {}
    for name in modules.keys() - waiting:
        where[name] = _put(name, modules[name], placed, home)
    if waiting:
        lean.stream(pipeline, home, stay=[*where])
    pipeline.placement_report = placed
    if placed.placement != "single":
        pipeline.hf_device_map = {**where, **dict.fromkeys(waiting, CPU)}
        pipeline.memory_report = str(placed)
        pipeline.__class__ = _fixed_kind(type(pipeline))
    return pipeline


def follow(own: Any, made: Any) -> Any:
    """Returns ``made``, a pipeline over the components of ``own``, at home where that one is."""
    placed = getattr(own, "placement_report", None)
    if isinstance(placed, Placed):
        made.placement_report = placed
        if placed.placement != "single":
            made.hf_device_map = own.hf_device_map
            made.memory_report = own.memory_report
            made.__class__ = _fixed_kind(type(made))
    return made


def _put(name: str, module: torch.nn.Module, placed: Placed, home: torch.device) -> str:
    """Brings a component to its place; returns the device, or the first of several."""
    part = placed.components.get(name)
    if part is not None and part.use == "shard":
        crossing.cut(module, part.devices)
        return part.device
    # What has no weights in the snapshot is the user's own.
    device = home if part is None else torch.device(part.device)
    if any(tensor.device != device for tensor in (*module.parameters(), *module.buffers())):
        module.to(device)
    if device != home:
        crossing.open_doors(module, device, has_layers=phase_of(name) == "encode")
    return str(device)


def _fixed_kind(plain: type) -> type:
    if plain not in _kinds:
        _kinds[plain] = _make_kind(plain)
    return _kinds[plain]


def _make_kind(plain: type) -> type:
    def home(self: Any) -> torch.device:
        return torch.device(self.placement_report.workers[0])

    members: dict[str, Any] = {
        "__doc__": plain.__doc__,
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        # Stock looks at the first component, wherever that is.
        "_execution_device": property(home),
        "device": property(home),
        **{name: _refusing(name) for name in _REFUSED},
    }
    return type(plain.__name__, (plain,), members)


def _refusing(name: str) -> Any:
    def refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
        raise UsageError(
            "{call} would move a pipeline whose components are where its plan put them"
            " ({placement})",
            hint="load it again with another device= or placement=",
            call=f"{name}()",
            placement=self.placement_report.placement,
        )

    return refuse
