"""How one image can be shared among devices, and among which of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from zhcache.errors import UsageError
from zhcache.placement.devices import CPU, Machine
from zhcache.placement.families import DOUBLED, DOUBLED_SHOWN, FAMILIES
from zhcache.placement.model import Model
from zhcache.placement.ways import How

MAX_OVER_BUS = 4
"""Devices that share one image over PCIe: eight L40 were slower than four at 1024 pixels.

Source: the published figures of xDiT for FLUX.1.
"""


def cut_of(model: Model, machine: Machine) -> tuple[How, Sequence[str]]:
    """Returns how the pipeline's image is cut, and the devices that share it.

    Raises:
        UsageError: It cannot be cut, or there are not several GPUs that reach each other.
    """
    names = [device.name for device in machine.devices if device.name != CPU]
    if len(names) < 2:
        raise UsageError(
            "one image is shared among GPUs, and here are not two of them",
            hint="name several: zhcache plan REPO --devices cuda:0,cuda:1",
        )
    if machine.joined(names) == "none":
        raise UsageError(
            "slices of a divided GPU cannot share one image: they do not reach each other",
            hint="placement=replicate makes an image on each",
        )
    if model.family.has_plan:
        # Heads that do not divide are padded; the ring needs attention that gives its sums.
        near = machine.joined(names) == "nvlink"
        return "ulysses", names if near else names[:MAX_OVER_BUS]
    if DOUBLED.fullmatch(model.pipeline):
        return "guidance", names[:2]
    raise UsageError(
        "an image of {kind} cannot be shared: diffusers has no plan for it, and its guidance is not"
        " one that can be split",
        hint="plans are there for {families}, guidance is split of {known}; placement=replicate"
        " makes an image on each device",
        kind=model.pipeline or model.family.name,
        families=", ".join(one.name for one in FAMILIES.values() if one.has_plan),
        known=DOUBLED_SHOWN,
    )
