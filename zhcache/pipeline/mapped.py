"""Modules over their mapped files, where that takes no more than putting tensors in their place.

It is what stock ``from_pretrained`` does with weights that were published in the precision asked
for, less what it costs there: rules of renaming for every model that is known, a look at each
tensor's device. Whatever needs more (a cast, other names, ties, quantization, a table computed in
the dtype of the load) is left to stock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from zhcache.pipeline import skeleton
from zhcache.pipeline.published import Published, components


def plain(folder: Path, form: Published, without: Collection[str]) -> dict[str, torch.nn.Module]:
    """Returns those components that can be had this way, by name.

    Args:
        folder: The pipeline's folder.
        form: How it was published.
        without: Components that are not wanted.

    Raises:
        UsageError: A component is none of the libraries' modules.
        OSError: A file cannot be read.
    """
    made: dict[str, torch.nn.Module] = {}
    for name, (library, kind) in components(folder).items():
        if name in without or name in form.quantized or name not in form.dtypes:
            continue
        dtype = getattr(torch, form.dtypes[name])
        if _is_widened(skeleton.component_class(library, kind), dtype):
            continue
        module = skeleton.build(folder / name, library, kind, dtype, real_buffers=True)
        if not _needs_more(module, dtype) and _fill(module, dtype, form.files[name]):
            made[name] = module
    return made


def place(keys: Collection[str], module: torch.nn.Module) -> Mapping[str, str] | None:
    """Returns the key of each parameter's tensor; None where not all is plain.

    All keys may share one prefix that the module has not: that of a model it was once part of. A
    key of a buffer that is no longer saved is passed over.
    """
    names = {name for name, _ in module.named_parameters()}
    passed = {name for name, _ in module.named_buffers()}
    heads = {key.partition(".")[0] for key in keys}
    for prefix in ("", *(f"{head}." for head in heads if len(heads) == 1)):
        by_name = {key.removeprefix(prefix): key for key in keys}
        if names <= by_name.keys() <= names | passed:
            return {name: by_name[name] for name in names}
    return None


def _fill(module: torch.nn.Module, dtype: torch.dtype, files: Sequence[Path]) -> bool:
    """Puts the files' tensors into ``module``; returns whether that was all."""
    shards = [load_file(file) for file in files]
    held = {key: tensor for shard in shards for key, tensor in shard.items()}
    placed = place(held, module)
    if placed is None or len(held) != sum(len(shard) for shard in shards):
        return False
    parts = dict(module.named_modules())
    for name, built in list(module.named_parameters()):
        tensor = held[placed[name]]
        if tensor.dtype != dtype or tensor.shape != built.shape:
            return False
        path, _, leaf = name.rpartition(".")
        setattr(parts[path], leaf, torch.nn.Parameter(tensor, requires_grad=built.requires_grad))
    return True


def _is_widened(module: Any, dtype: torch.dtype) -> bool:
    """Tells whether a module, or its class, keeps parts of itself wider than ``dtype``."""
    names = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    return dtype != torch.float32 and any(getattr(module, name, None) for name in names)


def _needs_more(module: Any, dtype: torch.dtype) -> bool:
    all_names = sum(1 for _ in module.named_parameters(remove_duplicate=False))
    is_tied = all_names != sum(1 for _ in module.parameters())
    if is_tied or getattr(module, "all_tied_weights_keys", None):
        return True
    if _is_widened(module, dtype):
        return True
    is_cast = dtype != torch.get_default_dtype()
    for part in module.modules():
        if part._buffers.keys() - part._non_persistent_buffers_set:
            return True
        loose = [value for value in vars(part).values() if isinstance(value, torch.Tensor)]
        computed = [*part.buffers(recurse=False), *loose]
        # Made in the default dtype, which stock sets, for all threads, to the one of the load.
        if is_cast and any(one.is_floating_point() or one.is_complex() for one in computed):
            return True
    return False
