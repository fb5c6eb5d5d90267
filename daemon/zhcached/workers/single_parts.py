"""A checkpoint's tensors as diffusers' conversion functions see them, and what those make of them.

The functions get stand-ins instead of tensors: something that has a shape, gives out rows and
remembers where in the file its bytes are. So renaming and cutting cost no memory, and all of it is
read once, when it is sent.

Source: ``convert_ldm_unet_checkpoint``, ``convert_ldm_vae_checkpoint``,
``convert_ldm_clip_checkpoint``, ``convert_open_clip_checkpoint`` of diffusers 0.42,
``loaders/single_file_utils.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from diffusers.loaders import single_file_utils as utils

from zhcache.protocol.conversion import Extract
from zhcached.workers.tensors import TensorInfo, size_of

_TEXT = "text_model."
_BARE_TEXT = ("embeddings.", "encoder.", "final_layer_norm.")
"""What some programs write without ``text_model.`` before it. Source: AUTOMATIC1111's webui,
``checkpoint_dict_replacements_sd1``."""


@dataclass(frozen=True)
class Part:
    """A tensor of the checkpoint, or whole rows of one.

    Attributes:
        info: Its name in the checkpoint, dtype, shape and place in the file.
        is_turned: Whether it is to be read transposed.
    """

    info: TensorInfo
    is_turned: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, as it is to be read."""
        return self.info.shape[::-1] if self.is_turned else self.info.shape

    @property
    def ndim(self) -> int:
        """Its dimensions."""
        return len(self.info.shape)

    @property
    def T(self) -> Self:  # noqa: N802 - a tensor's name of it
        """It, transposed."""
        if self.ndim != 2:
            raise ValueError(f"{self.info.name} of shape {list(self.shape)} is no matrix")
        return replace(self, is_turned=not self.is_turned)

    def contiguous(self) -> Self:
        """Returns it: it is written in order."""
        return self

    def clone(self) -> Self:
        """Returns it: nobody changes it."""
        return self

    def detach(self) -> Self:
        """Returns it: it has no gradient."""
        return self

    def __getitem__(self, key: Any) -> Self:
        """Returns some of its rows, or it without dimensions of one element.

        Raises:
            ValueError: Anything else is asked for.
        """
        keys = key if isinstance(key, tuple) else (key,)
        if self.is_turned or not keys or len(keys) > self.ndim:
            raise ValueError(f"{self.info.name} of shape {list(self.shape)} has no part {key}")
        rows, *others = (*keys, *[slice(None)] * (self.ndim - len(keys)))
        shape = [n for n, k in zip(self.shape[1:], others, strict=True) if k == slice(None)]
        dropped = [n for n, k in zip(self.shape[1:], others, strict=True) if k != slice(None)]
        if any(k not in (0, slice(None)) for k in others) or dropped != [1] * len(dropped):
            raise ValueError(f"{self.info.name} of shape {list(self.shape)} has no part {key}")
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise ValueError(f"{self.info.name} of shape {list(self.shape)} has no part {key}")
        first, last, _ = rows.indices(self.shape[0])
        count = max(0, last - first)
        row = size_of(self.info.dtype, self.info.shape[1:])
        start = self.info.start + first * row
        made = replace(self.info, shape=(count, *shape), start=start, end=start + count * row)
        return replace(self, info=made)

    @property
    def bytes(self) -> int:
        """Its size."""
        return size_of(self.info.dtype, (math.prod(self.shape),))


Parts = Mapping[str, Part]


def of_component(request: Extract, tensors: Mapping[str, TensorInfo]) -> dict[str, Part]:
    """Returns the checkpoint's tensors of one component, as diffusers knows their names."""
    found: dict[str, Part] = {}
    for name, info in tensors.items():
        if name.startswith(request.prefix):
            rest = name.removeprefix(request.prefix)
            if request.way == "clip" and rest.startswith(_BARE_TEXT):
                rest = _TEXT + rest
            found[request.prefix + rest] = Part(info)
    return found


def converted(request: Extract, parts: Parts, module: torch.nn.Module) -> dict[str, Part]:
    """Returns the component's tensors under the names of its published files.

    Raises:
        ValueError: A tensor has a shape that cannot be cut or turned as it has to be.
        KeyError: One is missing without which nothing can be told of the others.
    """
    config: Any = module.config
    checkpoint = dict(parts)
    ways: Mapping[str, Callable[[], dict[str, Any]]] = {
        "unet": lambda: utils.convert_ldm_unet_checkpoint(checkpoint, config),
        "vae": lambda: utils.convert_ldm_vae_checkpoint(checkpoint, config),
        "clip": lambda: utils.convert_ldm_clip_checkpoint(checkpoint),
        "open_clip": lambda: utils.convert_open_clip_checkpoint(
            module, checkpoint, prefix=request.prefix
        ),
    }
    made = ways[request.way]()
    return {name: part for name, part in made.items() if part is not None}
