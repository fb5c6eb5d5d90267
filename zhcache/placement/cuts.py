"""How a denoiser's work on one image is cut among devices, and what cannot be. Pure.

One rule for who plans and for the workers that do it: from configurations, counts and lengths.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from zhcache.errors import UsageError
from zhcache.i18n import mark
from zhcache.placement.families import DOUBLED, DOUBLED_SHOWN, FAMILIES, family_of

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
class Cut:
    """How a denoiser is run over several devices.

    Attributes:
        name: What is split.
        why: The reason, a whole sentence.
        is_padded: Ulysses with heads that do not divide.
    """

    name: Literal["cfg", "ulysses", "ring"]
    why: str
    is_padded: bool = False


def choose(denoiser: Denoiser, count: int, attention: str | None = None) -> Cut:
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
    return Cut(
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
            "an image of {kind} cannot be shared: diffusers has no plan for it, and its guidance is"
            " not one that can be split",
            hint="plans are there for {families}, guidance is split of {known};"
            " placement=replicate makes an image on each device",
            kind=pipeline,
            families=", ".join(one.name for one in FAMILIES.values() if one.has_plan),
            known=DOUBLED_SHOWN,
        )


def check_masked(kind: str, cut: Cut, count: int, lengths: Collection[int]) -> None:
    """Refuses a call with a mask that diffusers would lay over other tokens than it is of.

    Its ring takes the mask of the own part for every part. Its parts of unlike length it pads to
    the longest before they are put together, and cuts off what is over at the end alone
    (``TemplatedUlyssesAnythingAttention`` of 0.42.1): right if only the last part is shorter.

    Args:
        kind: The denoiser's class.
        cut: How it is split.
        count: Among how many.
        lengths: Of the mask and of what else is split.

    Raises:
        UsageError: The mask would shift.
    """
    if _is_masked_right(cut, count, lengths):
        return
    counts = [one for one in range(2, count) if _is_masked_right(cut, one, lengths)]
    if family_of(kind).masks == "always" and counts:
        hint = mark("name {counts} devices")
    else:
        hint = mark(
            "give a seed for each image: each is then made alone, where nothing is masked; or"
            " name another number of devices"
        )
    raise UsageError(
        "{kind} masks a part of the texts, which over {count} devices ({way}) would mask another",
        hint=hint,
        kind=kind,
        count=count,
        way=cut.name,
        counts=" | ".join(map(str, counts)),
    )


def check_gathered(kind: str, tokens: int, count: int, side: int) -> None:
    """Refuses an image whose parts gloo cannot put together: those of unlike length.

    Args:
        kind: The denoiser's class.
        tokens: Of the image, or of whatever else is split and put together again.
        count: Of the CPUs that share it.
        side: Pixels along a side of a token.

    Raises:
        UsageError: ``tokens`` do not divide.
    """
    if tokens % count:
        raise UsageError(
            "{kind} has {tokens} tokens of {side}x{side} pixels here, which {count} CPUs cannot"
            " share: their parts must be equal",
            hint="make the width or the height a multiple of {divisor}, or name another number of"
            " devices",
            kind=kind,
            tokens=tokens,
            side=side,
            count=count,
            divisor=side * count,
        )


def _is_masked_right(cut: Cut, count: int, lengths: Collection[int]) -> bool:
    return cut.name != RING and all(length % count in (0, count - 1) for length in lengths)


def _of_plan(denoiser: Denoiser, count: int, attention: str | None) -> Cut:
    kind, heads = denoiser.class_name, denoiser.heads
    if heads is not None and heads % count == 0:
        return Cut(ULYSSES, f"{kind} declares a plan, and its {heads} heads divide by {count}.")
    told = "an unknown number of" if heads is None else str(heads)
    if attention in _WITH_SUMS:
        return Cut(
            RING,
            f"{kind} declares a plan, its {told} heads do not divide by {count}, and {attention}"
            " gives the sums that ring needs.",
        )
    if heads is not None and not _can_be_padded(heads, count):
        counts = [n for n in range(2, count) if heads % n == 0 or _can_be_padded(heads, n)]
        instead = mark("placement='replicate' makes several images at once")
        raise UsageError(
            "the {heads} heads of {kind} cannot be shared by {count} devices",
            hint=mark("name {counts} devices") if counts else instead,
            heads=heads,
            kind=kind,
            count=count,
            counts=" | ".join(map(str, counts)),
        )
    return Cut(
        ULYSSES,
        f"{kind} declares a plan; its {told} heads do not divide by {count} and are padded.",
        is_padded=True,
    )


def _can_be_padded(heads: int, count: int) -> bool:
    # ``_maybe_pad_qkv_head`` of diffusers 0.42.1: some of the last device's are its own.
    return -heads % count < math.ceil(heads / count)
