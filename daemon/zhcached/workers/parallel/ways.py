"""Which way a denoiser is run over several devices. Pure: decides, and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zhcache.errors import UsageError
from zhcache.placement.families import DOUBLED, DOUBLED_SHOWN

CFG: Literal["cfg"] = "cfg"
ULYSSES: Literal["ulysses"] = "ulysses"
RING: Literal["ring"] = "ring"

_WITH_SUMS = frozenset({"flash", "flash_hub", "_native_flash", "_native_cudnn"})
"""Attention backends of diffusers that give the log-sum-exp, by which ring puts parts together."""


@dataclass(frozen=True, slots=True)
class Denoiser:
    """What of a denoiser the choice depends on.

    Attributes:
        class_name: Its class.
        pipeline: The class of the pipeline that calls it.
        has_plan: It declares how its sequence is split.
        heads: Of its attention, if that is known.
    """

    class_name: str
    pipeline: str
    has_plan: bool
    heads: int | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """How a denoiser is run over several devices.

    Attributes:
        name: What is split.
        why: The reason, a whole sentence.
        is_padded: Ulysses with heads that do not divide.
    """

    name: Literal["cfg", "ulysses", "ring"]
    why: str
    is_padded: bool = False


def choose(denoiser: Denoiser, count: int, attention: str | None = None) -> Way:
    """Returns the way.

    Args:
        denoiser: What is to be run.
        count: Of the devices, 2 at least.
        attention: The backend that was asked for.

    Raises:
        UsageError: There is none.
    """
    if denoiser.has_plan:
        return _of_plan(denoiser, count, attention)
    check_doubled(denoiser.pipeline)
    if count != 2:
        raise UsageError(
            "the guidance of {kind} is split over 2 devices, not {count}",
            hint="name two devices, or take placement='replicate' for several images at once",
            kind=denoiser.pipeline,
            count=count,
        )
    return Way(
        CFG,
        f"{denoiser.class_name} declares no plan for context parallelism, and"
        f" {denoiser.pipeline} doubles the batch for guidance. A call of one image without"
        " guidance is made whole by each device.",
    )


def check_doubled(pipeline: str) -> None:
    """Refuses pipelines whose batch is not known to be doubled for guidance, each half by itself.

    Raises:
        UsageError: The class ``pipeline`` is not one.
    """
    if DOUBLED.fullmatch(pipeline) is None:
        raise UsageError(
            "{kind} cannot be run over several devices at once",
            hint=(
                "it has no plan for context parallelism, and its guidance is not one that can be"
                " split, as of {known}; placement='replicate' makes several images at once"
            ),
            kind=pipeline,
            known=DOUBLED_SHOWN,
        )


def _of_plan(denoiser: Denoiser, count: int, attention: str | None) -> Way:
    kind, heads = denoiser.class_name, denoiser.heads
    if heads is not None and heads % count == 0:
        return Way(ULYSSES, f"{kind} declares a plan, and its {heads} heads divide by {count}.")
    told = "an unknown number of" if heads is None else str(heads)
    if attention in _WITH_SUMS:
        return Way(
            RING,
            f"{kind} declares a plan, its {told} heads do not divide by {count}, and {attention}"
            " gives the sums that ring needs.",
        )
    return Way(
        ULYSSES,
        f"{kind} declares a plan; its {told} heads do not divide by {count} and are padded.",
        is_padded=True,
    )
