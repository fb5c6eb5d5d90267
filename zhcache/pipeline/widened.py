"""Modules of a variant whose values its dtype cannot hold: they run in the width of their file.

A converter leaves them wide and says so in ``zhcache-variant.json``. Loading casts them all the
same, to infinities, and the pictures turn black. Here they get their own tensors back, private to
this process, and casts around their call: what goes in becomes as wide as they are, what comes out
as narrow as it was.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhcache.errors import UsageError
from zhcache.pipeline.published import header, published

if TYPE_CHECKING:
    import torch

REPORT = "zhcache-variant.json"
MAX_REPORT = 16 * 2**20
_WHY = ("overflow", "NaN")


def wide(folder: Path) -> dict[str, list[str]]:
    """Returns the modules that must stay wide, by component; nothing for what is no variant.

    They are named as the component's file of weights names them.
    """
    try:
        path = folder / REPORT
        told: Any = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_REPORT else None
        parts = told["components"].items()
        found = {name: _named(part["kept"]) for name, part in parts}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: modules for name, modules in found.items() if modules}


def restore(folder: Path, pipeline: Any, without: Collection[str] = ()) -> None:
    """Gives the modules of a loaded pipeline their own tensors back.

    Args:
        folder: What it was loaded from.
        pipeline: On any device.
        without: Components that are not the folder's.

    Raises:
        UsageError: The files cannot be read by this user, or the component has no such module.
        IntegrityError: A header cannot be read.
    """
    needed = {name: modules for name, modules in wide(folder).items() if name not in without}
    files = published(folder).files if needed else {}
    for name, modules in needed.items():
        part = getattr(pipeline, name, None)
        if part is None:
            continue
        places = {key: file for file in files.get(name, ()) for key in header(file)}
        for module in modules:
            tensors = _tensors(places, module)
            target = _find(part, module, tensors)
            if target is None:
                raise UsageError(
                    "{module} of {component} holds what this variant's precision cannot, and cannot"
                    " be run wider here",
                    hint="take variant='bf16', or mode='resident'",
                    module=module,
                    component=name,
                )
            _widen(target, tensors)


def _named(kept: Mapping[str, str]) -> list[str]:
    return [module for module, why in kept.items() if why.startswith(_WHY)]


def _tensors(places: Mapping[str, Path], module: str) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    found: dict[str, torch.Tensor] = {}
    for key, file in places.items():
        head, _, leaf = key.rpartition(".")
        if head == module:
            with safe_open(file, "pt") as source:
                found[leaf] = source.get_tensor(key)
    return found


def _find(part: Any, name: str, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Returns the module that ``name`` means: files may know it by a longer path than the class."""
    steps = name.split(".")
    for start in range(len(steps)):
        try:
            module = part.get_submodule(".".join(steps[start:]))
        except AttributeError:
            continue
        own = dict(module.named_parameters(recurse=False))
        if tensors and all(
            leaf in own and own[leaf].shape == tensor.shape for leaf, tensor in tensors.items()
        ):
            return module
    return None


def _widen(module: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    import torch

    for leaf, tensor in tensors.items():
        old = getattr(module, leaf)
        kept = torch.nn.Parameter(tensor.to(old.device), requires_grad=old.requires_grad)
        setattr(module, leaf, kept)
    widest = next(iter(tensors.values())).dtype
    narrow: list[torch.dtype] = []

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = (*args, *kwargs.values())
        narrow[:] = [one.dtype for one in given if _is_float(one)][:1]
        return (
            tuple(one.to(widest) if _is_float(one) else one for one in args),
            {k: one.to(widest) if _is_float(one) else one for k, one in kwargs.items()},
        )

    def after(_: Any, __: Any, ___: Any, made: Any) -> Any:
        return made.to(narrow[0]) if narrow and _is_float(made) else made

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after, with_kwargs=True)


def _is_float(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point()
