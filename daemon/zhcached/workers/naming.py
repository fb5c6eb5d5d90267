"""What a module calls the tensors that its published files call by other names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from zhcache.errors import UsageError


def is_of_transformers(module: torch.nn.Module) -> bool:
    """Tells which library's rules a module goes by, that or diffusers."""
    from transformers import PreTrainedModel

    return isinstance(module, PreTrainedModel)


def own_names(
    module: torch.nn.Module, keys: Iterable[str], *, may_fuse: bool = False
) -> dict[str, str]:
    """Returns the module's name of each published key; a key it does not know keeps its own.

    Args:
        module: Without weights.
        keys: Of all the component's files.
        may_fuse: Whether several keys may have one name, where a tensor is made of several.

    Raises:
        UsageError: They may not, and would.
    """
    if is_of_transformers(module):
        return _of_transformers(module, sorted(keys), may_fuse)
    # Older U-Nets and VAEs call their attention's projections by names that are mended at loading.
    named: dict[str, Any] = {key: key for key in keys}
    mend: Any = getattr(module, "_fix_state_dict_keys_on_load", None)
    if mend is not None:
        mend(named)
    return {key: name for name, key in named.items()}


def written(module: torch.nn.Module, key: str, name: str) -> str:
    """Returns the key under which readers of a quantized file look for a tensor.

    transformers renames keys of quantized files as well. diffusers mends old ones only where they
    hold whole tensors, so that those are written as the module calls them.
    """
    return key if is_of_transformers(module) else name


def _of_transformers(module: Any, keys: Iterable[str], may_fuse: bool) -> dict[str, str]:
    """Source: ``convert_and_load_state_dict_in_model`` of transformers 5, its step 1."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )
    except ImportError as error:
        raise UsageError(
            "this transformers cannot tell what its modules call published weights",
            hint="pip install 'transformers>=5' for quantized text encoders",
        ) from error
    steps = get_model_conversion_mapping(module)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    known: dict[str, Any] = module.state_dict()
    prefix = module.base_model_prefix
    names: dict[str, str] = {}
    for key in keys:
        name, fused = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:
            name, fused = rename_source_key(key, [], [], prefix, known)
        if fused is not None and name in known and not may_fuse:
            raise UsageError(
                "{kind} makes {name} of several published tensors, which cannot be quantized here",
                hint="give this component bf16 in the recipe",
                kind=type(module).__name__,
                name=name,
            )
        names[key] = name
    return names
