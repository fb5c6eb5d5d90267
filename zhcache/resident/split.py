"""A call for several images as calls for fewer: what is each image's, what is all images'. Pure.

An image that is made alone depends on its prompt and its seed; in one batch with others its last
bits depend on them too. So with a seed for each image a list is made image by image, or ``batch``
by ``batch``, however many workers there are. Without seeds nothing can be told apart, and the list
is cut into as many even parts as there are workers. What cannot be told to be of one image is not
cut.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec

from zhcache.chinese.texts import is_text
from zhcache.errors import UsageError
from zhcache.protocol.prompts import OwnRead
from zhcache.resident.counts import NUMBER, length_of, prompts_of, times_of

_EMBEDS = re.compile(r"(negative_)?(pooled_)?prompt_(embeds|attention_mask)(_mask|_\d)?")
_IMAGES = ("image", "mask_image", "control_image")
_NETS = ("controlnet_conditioning_scale", "adapter_conditioning_scale")
"""Of pipelines that may take several images for one: with several nets a list has one for each."""

_KIN = re.compile(
    r"(?!.*(?:Adapter|Union|XS))(?:\w+(?:Img2Img|Inpaint)"
    r"|(?:StableDiffusion(?:XL|3)?|Flux|Kolors|PixArt(?:Alpha|Sigma)|QwenImage)(?:ControlNet)?)Pipeline"
)

_SHARED = frozenset({
    "timesteps", "sigmas", "original_size", "target_size", "crops_coords_top_left",
    "negative_original_size", "negative_target_size", "negative_crops_coords_top_left",
    "controlnet_conditioning_scale", "adapter_conditioning_scale", "control_guidance_start",
    "control_guidance_end", "skip_guidance_layers",
})  # fmt: skip
"""Lists that hold for all images."""


@dataclass(frozen=True)
class Part:
    """A call for some of the images.

    Attributes:
        arguments: Of this call.
        conditions: Of its prompts, where the whole call has some.
        places: Which of the whole call's prompts its prompts are; None: it is the whole call.
    """

    arguments: Mapping[str, Any]
    conditions: Mapping[str, Any] | None
    places: Sequence[int] | None

    def own(self, given: Mapping[str, Any], read: Sequence[OwnRead]) -> list[OwnRead]:
        """Returns what a worker said of this call's texts, as of those of the whole call."""
        if self.places is None:
            return list(read)
        return [
            msgspec.structs.replace(one, place=self.places[one.place])
            if _is_many(given.get(one.argument))
            else one
            for one in read
        ]


def of_kin(class_name: str, own: Collection[str]) -> Collection[str]:
    """Returns what can be told of the parameters of a class over another's components.

    Args:
        class_name: Of the class; nobody here has it to ask it.
        own: Parameters of the one that the components are of.
    """
    if NUMBER not in own or not _KIN.fullmatch(class_name):
        return ()
    return (NUMBER, _NETS[0]) if "ControlNet" in class_name else (NUMBER,)


def split(
    arguments: Mapping[str, Any],
    parameters: Collection[str],
    *,
    workers: int,
    batch: int | None = None,
    conditions: Mapping[str, Any] | None = None,
    has_one_net: bool = False,
) -> list[Part]:
    """Returns the calls that together are the call with ``arguments``; none: it is made whole.

    Args:
        arguments: By name, with ``seed``, checked.
        parameters: What the pipeline takes.
        workers: How many there are.
        batch: How many images are made together, where that was said.
        conditions: As ``zhcache.chinese.conditions`` has them.
        has_one_net: As ``Opened`` says it.

    Raises:
        UsageError: ``batch`` is no number of images, or the call cannot be cut.
    """
    if batch is not None and (type(batch) is not int or batch < 1):
        raise UsageError(
            "{name}={value} cannot be meant",
            hint="it takes {allowed}",
            name="batch",
            value=repr(batch)[:80],
            allowed="a number of images from 1 on",
        )
    call = _Call.of(arguments, parameters, has_one_net=has_one_net)
    bounds = [] if call is None else call.bounds(workers, batch)
    if call is None or not bounds:
        if batch is not None:
            raise UsageError(
                "this call cannot be made {batch} images at a time",
                hint="give seed= or generator= one for each image, and lists of prompts",
                batch=batch,
            )
        return []
    if len(bounds) == 2:
        return []
    return [call.part(range(first, after), conditions) for first, after in pairwise(bounds)]


@dataclass(frozen=True)
class _Call:
    """A call of which every argument is known to be each prompt's, each image's or all images'."""

    arguments: Mapping[str, Any]
    prompts: int
    times: int
    by_prompt: Collection[str]
    by_image: Collection[str]

    @classmethod
    def of(
        cls, arguments: Mapping[str, Any], parameters: Collection[str], *, has_one_net: bool
    ) -> _Call | None:
        """Returns the call; None where something cannot be told."""
        times, prompts = times_of(arguments), prompts_of(arguments)
        if NUMBER not in parameters or not times or not prompts:
            return None
        has_nets = any(name in parameters for name in _NETS)
        may_list = times == 1 and (has_one_net or not has_nets)
        by_prompt: set[str] = set()
        by_image: set[str] = set()
        for name, value in arguments.items():
            if not _is_many(value) or name in _SHARED:
                continue
            if name in ("seed", "generator", "latents") and length_of(value) == prompts * times:
                by_image.add(name)
            elif _is_by_prompt(name, value, prompts, may_list=may_list):
                by_prompt.add(name)
            elif not _is_shared(name, value):
                return None
        return cls(arguments, prompts, times, by_prompt, by_image)

    @property
    def images(self) -> int:
        return self.prompts * self.times

    def bounds(self, workers: int, batch: int | None) -> list[int]:
        """Returns where the parts begin, and the end; nothing where it cannot be cut."""
        seed, generators = self.arguments.get("seed"), self.arguments.get("generator")
        if seed is None and generators is None and batch is None:
            count = min(workers, self.images)
            return [self.images * part // count for part in range(count + 1)]
        is_each = (seed is None or "seed" in self.by_image) and (
            generators is None
            # One generator in several places is drawn from in turn.
            or ("generator" in self.by_image and len({*map(id, generators)}) == self.images)
        )
        return [*range(0, self.images, batch or 1), self.images] if is_each else []

    def part(self, images: range, conditions: Mapping[str, Any] | None) -> Part:
        """Returns the call for some of the images."""
        places = [image // self.times for image in images]
        is_one = len(set(places)) == 1
        if is_one:
            places = places[:1]
        made = dict(self.arguments)
        made |= {name: _picked(made[name], places) for name in self.by_prompt}
        made |= {name: _picked(made[name], images) for name in self.by_image}
        number = len(images) if is_one else 1
        if number > 1 or made.get(NUMBER) is not None:
            made[NUMBER] = number
        return Part(made, _of_places(conditions, places), places)


def _is_by_prompt(name: str, value: Any, prompts: int, *, may_list: bool) -> bool:
    if length_of(value) != prompts:
        return False
    is_list = isinstance(value, (list, tuple))
    if is_text(name):
        return is_list and all(isinstance(one, str) for one in value)
    if _EMBEDS.fullmatch(name):
        return not is_list or all(one is None or hasattr(one, "shape") for one in value)
    if name in _IMAGES and may_list:
        is_batch = len(getattr(value, "shape", ())) == 4
        return is_batch or (is_list and not any(isinstance(one, (list, tuple)) for one in value))
    return False


def _is_shared(name: str, value: Any) -> bool:
    """Whether a value that could be several is one, and all images'."""
    if isinstance(value, dict):
        return name.endswith("_kwargs") and not any(map(_is_many, value.values()))
    shape = getattr(value, "shape", None)
    return name in _IMAGES and shape is not None and (len(shape) < 4 or shape[0] == 1)


def _is_many(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and hasattr(value, "__len__")


def _picked(value: Any, places: Sequence[int]) -> Any:
    if not isinstance(value, (list, tuple)):
        # A tensor or an array keeps its first dimension.
        return value[list(places)]
    found = [value[place] for place in places]
    return found[0] if len(found) == 1 else found


def _of_places(
    conditions: Mapping[str, Any] | None, places: Sequence[int]
) -> dict[str, Any] | None:
    if conditions is None:
        return None
    lists = {
        name: [conditions[name][place] for place in places]
        for name in ("prompt", "negative_prompt")
    }
    return {**conditions, **lists}
