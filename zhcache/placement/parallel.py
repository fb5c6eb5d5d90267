"""How one image can be shared among devices, and among which of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from zhcache.errors import UsageError
from zhcache.placement.devices import CPU, Machine
from zhcache.placement.families import FAMILIES
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
    if model.family.is_unet:
        return "guidance", names[:2]
    if not model.family.has_plan:
        raise UsageError(
            "an image of {family} cannot be shared: diffusers has no plan for it",
            hint="it has one for {families}; placement=replicate makes an image on each device",
            family=model.family.name,
            families=", ".join(one.name for one in FAMILIES.values() if one.has_plan),
        )
    if machine.joined(names) != "nvlink":
        names = names[:MAX_OVER_BUS]
    # Ulysses gives each device whole heads; the ring takes any number.
    return "ulysses" if model.heads and model.heads % len(names) == 0 else "ring", names
