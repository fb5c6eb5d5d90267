"""Which tensors stock ``from_pretrained`` loads wider than it was asked for.

A class names modules that it wants in float32, and its library says when that counts and what it
is compared with: diffusers the parts of a key, transformers a pattern that is searched in the name
that the module itself has for the tensor, which is not always the published one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from zhcached.workers import naming


def loaded_as(
    module: torch.nn.Module, keys: Iterable[str], dtype: torch.dtype
) -> dict[str, torch.dtype]:
    """Returns the dtype that each published float tensor has once it is loaded.

    Args:
        module: Without weights; for transformers, built while ``dtype`` was torch's default.
        keys: Of all the component's files.
        dtype: What is asked for.
    """
    if naming.is_of_transformers(module):
        return _of_transformers(module, keys, dtype)
    # Source: ModelMixin.from_pretrained and load_model_dict_into_meta.
    kept = set[str](getattr(module, "_keep_in_fp32_modules", None) or ())
    names = naming.own_names(module, keys)
    return {
        key: torch.float32 if kept.intersection(name.split(".")) else dtype
        for key, name in names.items()
    }


def _of_transformers(
    module: Any, keys: Iterable[str], dtype: torch.dtype
) -> dict[str, torch.dtype]:
    """Source: ``convert_and_load_state_dict_in_model`` of transformers 5, its step 3."""
    plan: Mapping[str, torch.dtype] = module._get_dtype_plan(dtype)
    kept = re.compile("|".join(name.replace("*", ".*") for name in plan)) if plan else None
    own = module.state_dict()
    found: dict[str, torch.dtype] = {}
    for key, name in naming.own_names(module, keys, may_fuse=True).items():
        if name not in own:
            # Not loaded at all; it lies there for other readers.
            found[key] = dtype
        elif kept is not None and kept.search(name):
            found[key] = torch.float32
        else:
            # A parameter that its module makes in a dtype of its own stays in that.
            found[key] = own[name].dtype
    return found
