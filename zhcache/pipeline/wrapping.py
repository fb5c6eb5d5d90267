"""Tensors that wrap others: what quantized weights of torchao are.

Such a tensor is taken apart into plain ones and a recipe that can be said in JSON, and made again
over plain ones that lie elsewhere. Only the classes and attributes that are named here are made:
a recipe comes from another process and must not choose what code runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from zhcache.errors import IntegrityError, UsageError
from zhcache.protocol.residency import Wrapped

_REQUIRED = {
    "Int8Tensor": {"qdata": {torch.int8}, "scale": {torch.float32, torch.bfloat16, torch.float16}},
    "Float8Tensor": {
        "qdata": {torch.float8_e4m3fn, torch.float8_e5m2},
        "scale": {torch.float32, torch.bfloat16, torch.float16},
    },
}
"""Fields that a class has at least, and what may lie there."""

_OPTIONAL = {"Int8Tensor": {"zero_point"}, "Float8Tensor": set[str]()}
_COMPUTED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def inner(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the tensors that ``tensor`` wraps, by field; none where it is a plain one."""
    if not is_traceable_wrapper_subclass(tensor):
        return {}
    # Torch promises this of every such class, and its stubs do not know it.
    fields: list[str] = cast("Any", tensor).__tensor_flatten__()[0]
    return {field: getattr(tensor, field) for field in fields}


def memory(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Returns the plain tensors that hold the content of ``tensor``; itself if it is one."""
    return list(inner(tensor).values()) or [tensor]


def recipe(tensor: torch.Tensor, names: Mapping[str, str]) -> Wrapped:
    """Returns how ``tensor`` is made again.

    Args:
        tensor: One that wraps others.
        names: What each of its fields is called where its content will lie.

    Raises:
        UsageError: It is of a class, or has attributes, that are not known here.
    """
    told = cast("Any", tensor)
    kind = type(tensor).__name__
    is_known = (
        (type(tensor).__module__.partition(".")[0], kind in _REQUIRED) == ("torchao", True)
        and names.keys() - _REQUIRED[kind].keys() <= _OPTIONAL[kind]
        and told.act_quant_kwargs is None
    )
    if not is_known:
        raise UsageError(
            "{kind} is no class of tensors that is shared",
            hint="weight-only int8 and float8 of torchao, and sdnq, are",
            kind=kind,
        )
    made = Wrapped(
        class_name=cast("Any", kind),
        tensors=dict(names),
        dtype=str(tensor.dtype).removeprefix("torch."),
        block_size=list(told.block_size),
    )
    if kind == "Int8Tensor":
        made.reduce_range = bool(told.reduce_range)
    else:
        made.kernel = told.kernel_preference.name
        made.matmul = None if told.mm_config is None else dict(told.mm_config._asdict())
    return made


def rebuilt(name: str, wrapped: Wrapped, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the tensor that ``wrapped`` describes, over the memory of ``parts``.

    Args:
        name: What the parameter is called, for errors.
        wrapped: Its recipe.
        parts: A plain tensor for each field.

    Raises:
        IntegrityError: The recipe is not one that ``recipe`` makes.
        ImportError: torchao is not installed.
    """
    required = _REQUIRED[wrapped.class_name]
    is_sound = (
        parts.keys() >= required.keys()
        and parts.keys() - required.keys() <= _OPTIONAL[wrapped.class_name]
        and all(parts[field].dtype in dtypes for field, dtypes in required.items())
        and len(wrapped.block_size) == parts["qdata"].dim()
        and wrapped.dtype in _COMPUTED
    )
    if not is_sound:
        raise _unsound(name, wrapped)
    common: dict[str, Any] = {
        **parts,
        "block_size": list(wrapped.block_size),
        "dtype": _COMPUTED[wrapped.dtype],
    }
    import torchao.quantization as torchao

    if wrapped.class_name == "Int8Tensor":
        return torchao.Int8Tensor(**common, reduce_range=wrapped.reduce_range)
    from torchao.float8.inference import Float8MMConfig
    from torchao.quantization.quantize_.common import KernelPreference

    try:
        kernel = KernelPreference[wrapped.kernel]
        matmul = None if wrapped.matmul is None else Float8MMConfig(**wrapped.matmul)
    except (KeyError, TypeError):
        raise _unsound(name, wrapped) from None
    return torchao.Float8Tensor(**common, kernel_preference=kernel, mm_config=matmul)


def _unsound(name: str, wrapped: Wrapped) -> IntegrityError:
    return IntegrityError(
        "the memory handed over holds no {kind} for {name}",
        hint="`zhcache doctor` tells whether daemon and client are of one version",
        kind=wrapped.class_name,
        name=name,
    )
