"""How one image can be shared among devices, and among which of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zhcache.errors import UsageError
from zhcache.i18n import mark
from zhcache.placement.cuts import CFG, Cut, Denoiser, check_gathered, check_masked, choose
from zhcache.placement.devices import CPU, Machine
from zhcache.placement.explain import said
from zhcache.placement.model import Model
from zhcache.protocol.placement import How
from zhcache.protocol.sources import Phrase

MAX_OVER_BUS = 4
"""Devices that share one image over PCIe: eight L40 were slower than four at 1024 pixels.

Source: the published figures of xDiT for FLUX.1.
"""


@dataclass(frozen=True)
class Shared:
    """How an image is shared.

    Attributes:
        how: What each device has of it.
        workers: The devices.
        notes: Why not more of them, and what to mind.
    """

    how: How
    workers: Sequence[str]
    notes: Sequence[Phrase] = ()


def shared(model: Model, machine: Machine) -> Shared:
    """Returns how the pipeline's image is cut, among as many of the devices as can share it.

    Raises:
        UsageError: It cannot be cut, or there are not several devices that reach each other.
    """
    names = _named(machine)
    most = len(names) if machine.joined(names) == "nvlink" else MAX_OVER_BUS
    refused: UsageError | None = None
    for count in range(len(names), 1, -1):
        try:
            cut = _cut(model, count, is_cpu=names[0] == CPU)
        except UsageError as error:
            # Of all of them, which is what was asked.
            refused = refused or error
            continue
        if cut.name != CFG and count > most:
            continue
        notes = [] if refused is None else [said(refused.template, **refused.values)]
        if count > 2 and model.family.masks == "uneven":
            notes.append(
                said(
                    mark(
                        "several prompts of different lengths need a seed for each image: among"
                        " three devices or more texts cannot be masked"
                    )
                )
            )
        return Shared("guidance" if cut.name == CFG else "ulysses", names[:count], notes)
    assert refused is not None
    raise refused


def _named(machine: Machine) -> list[str]:
    """Returns the devices that can reach each other.

    Raises:
        UsageError: There are not two, or they do not.
    """
    names = [device.name for device in machine.devices if device.name != CPU]
    if not names and len(machine.workers) > 1:
        return list(machine.workers)
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
    return names


def _cut(model: Model, count: int, *, is_cpu: bool) -> Cut:
    """Returns how workers would cut the pipeline's own image.

    Raises:
        UsageError: They would refuse it.
    """
    family = model.family
    kind, pipeline = family.name, model.pipeline or family.name
    cut = choose(Denoiser(kind, pipeline, family.has_plan, model.heads or None), count)
    if cut.name == CFG:
        return cut
    if family.masks == "always":
        check_masked(kind, cut, count, {family.text, model.tokens})
    if is_cpu:
        check_gathered(kind, model.tokens, count, model.side)
    return cut
