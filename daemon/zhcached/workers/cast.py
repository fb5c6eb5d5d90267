"""The schemes fp32, fp16 and bf16: every float tensor in one dtype, but for what must be wider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from zhcached.workers.keeping import loaded_as
from zhcached.workers.schemes import Entry, Group, is_within, module_of
from zhcached.workers.streaming import FLOATS
from zhcached.workers.tensors import BITS, TensorInfo

DTYPES: Mapping[str, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""What each of these schemes is called in a file."""

BY_CLASS = "class keeps it in float32"
ASKED = "asked"

_SPELLED = {dtype: name for name, dtype in FLOATS.items()}


class Cast:
    """What stock ``from_pretrained(torch_dtype=...)`` makes of a component, as files.

    What a class keeps in float32 is left in the source's dtype where that is not wider: it is
    loaded into float32 anyway, and no file grows by digits that it does not have.

    Args:
        dtype: As safetensors spells it.
        keep: Modules that stay in the source's dtype; as ``Part`` has it.
    """

    def __init__(self, dtype: str, keep: Sequence[str] = ()) -> None:
        self._dtype = dtype
        self._keep = keep

    def plan(
        self,
        tensors: Mapping[str, TensorInfo],
        module: torch.nn.Module,
        wide: Mapping[str, str],
    ) -> list[Group]:
        """See ``Scheme``."""
        loaded = loaded_as(module, tensors, FLOATS[self._dtype])
        return [self._group(tensor, loaded[tensor.name], wide) for tensor in tensors.values()]

    def metadata(self, groups: list[Group]) -> dict[str, str]:
        """See ``Scheme``."""
        return {}

    def config(self) -> dict[str, Any] | None:
        """See ``Scheme``: without a dtype given, stock loads one dtype from whatever is there."""
        return None

    def tools(self) -> dict[str, str]:
        """See ``Scheme``."""
        return {}

    def _group(self, tensor: TensorInfo, loaded: torch.dtype, wide: Mapping[str, str]) -> Group:
        if tensor.dtype not in FLOATS:
            return copied(tensor)
        if why := kept(tensor.name, wide, self._keep):
            return copied(tensor, why if tensor.dtype != self._dtype else "")
        if loaded not in _SPELLED:
            return copied(tensor)
        target = _SPELLED[loaded]
        why = BY_CLASS if target == "F32" != self._dtype else ""
        if target == tensor.dtype or (why and BITS[tensor.dtype] <= BITS[target]):
            return copied(tensor, why if tensor.dtype != self._dtype else "")
        return cast(tensor, target, why)


def copied(tensor: TensorInfo, why: str = "") -> Group:
    """Returns the plan to leave a tensor as it is."""
    entry = Entry(tensor.name, tensor.dtype, tensor.shape, tensor.name)
    return Group(tensor.name, "copy", (entry,), why)


def cast(tensor: TensorInfo, dtype: str, why: str = "") -> Group:
    """Returns the plan to write a tensor in ``dtype``."""
    return Group(tensor.name, "cast", (Entry(tensor.name, dtype, tensor.shape, tensor.name),), why)


def kept(name: str, wide: Mapping[str, str], keep: Sequence[str]) -> str:
    """Returns why a tensor stays in the source's dtype, or nothing.

    Args:
        name: Its key.
        wide: As ``Scheme.plan`` has it.
        keep: Modules that stay: dotted names or patterns.
    """
    module = module_of(name)
    for each, why in wide.items():
        if is_within(name, each):
            return why
    asked = any(
        is_within(name, each) or fnmatchcase(module, each) or fnmatchcase(name, each)
        for each in keep
    )
    return ASKED if asked else ""
