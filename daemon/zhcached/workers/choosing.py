"""Which weights of a module are quantized: what the library's own quantizer says, asked of it."""

from __future__ import annotations

import copy
import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from zhcache.errors import UsageError
from zhcached.workers.naming import is_of_transformers
from zhcached.workers.schemes import Group, is_within, module_of
from zhcached.workers.tensors import TensorInfo

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_POOLS = frozenset({"HunyuanDiTAttentionPool"})
ASKED = "asked"


class Choice:
    """The stock quantizer of one request, over a copy of a module without weights.

    Args:
        module: Without weights.
        settings: The ``quantization_config`` that stock ``from_pretrained`` would be given, of the
            module's own library.
        dtype: What it would be asked for beside it.
    """

    def __init__(self, module: torch.nn.Module, settings: Any, dtype: torch.dtype) -> None:
        # It notes on the module that it was quantized.
        self._module: Any = copy.deepcopy(module)
        self._is_of_transformers = is_of_transformers(module)
        if self._is_of_transformers:
            from transformers.quantizers.auto import AutoHfQuantizer

            quantizer: Any = AutoHfQuantizer.from_config(settings, pre_quantized=False)
            quantizer.validate_environment(device_map=None)
            quantizer.preprocess_model(self._module, dtype=dtype)
        else:
            from diffusers.quantizers.auto import DiffusersAutoQuantizer

            quantizer = DiffusersAutoQuantizer.from_config(settings, pre_quantized=False)
            quantizer.validate_environment(torch_dtype=dtype, device_map=None)
            quantizer.update_torch_dtype(dtype)
            # Source: ``ModelMixin.from_pretrained``, what it does with ``_keep_in_fp32_modules``.
            wide = getattr(module, "_keep_in_fp32_modules", None) or []
            quantizer.preprocess_model(
                model=self._module,
                device_map=None,
                keep_in_fp32_modules=wide if isinstance(wide, list) else [wide],
            )
        self._quantizer = quantizer
        self._names = frozenset(self._module.state_dict())

    def takes(self, name: str) -> bool:
        """Tells whether stock quantizes the tensor that the module calls ``name``."""
        if name not in self._names:
            return False
        if self._is_of_transformers:
            return bool(self._quantizer.param_needs_quantization(self._module, name))
        return bool(self._quantizer.check_if_quantized_param(self._module, None, name, {}))

    @property
    def settings(self) -> Any:
        """The request as the quantizer has changed it meanwhile."""
        return self._quantizer.quantization_config

    def described(self) -> dict[str, Any]:
        """Returns the ``quantization_config`` that stock ``save_pretrained`` writes."""
        found: dict[str, Any] = json.loads(json.dumps(self.settings.to_dict(), sort_keys=True))
        return found


def check(tensors: Mapping[str, TensorInfo], module: torch.nn.Module) -> None:
    """Refuses what is quantized already.

    Raises:
        UsageError: It says so in its configuration, or its weights have eight bits or fewer.
    """
    config: Any = getattr(module, "config", None)
    said = config.get("quantization_config") if isinstance(config, Mapping) else None
    narrow = [one for one in tensors.values() if one.dtype not in _FLOATS and len(one.shape) == 2]
    if said or getattr(config, "quantization_config", None) or any(_is_weight(o) for o in narrow):
        raise UsageError(
            "{kind} was published quantized, and cannot be quantized again",
            hint="take the repository in full precision, or use it as published",
            kind=type(module).__name__,
        )


def _is_weight(info: TensorInfo) -> bool:
    return info.name.endswith(".weight")


def modules(patterns: Sequence[str], module: torch.nn.Module) -> list[str]:
    """Returns the names of modules that ``patterns`` mean; a plain name means itself.

    Raises:
        UsageError: One of them means nothing here.
    """
    known = [name for name, _ in module.named_modules() if name]
    found: list[str] = []
    for pattern in patterns:
        matches = fnmatch.filter(known, pattern)
        # As the libraries do it, a plain name also means modules further down that are called so.
        if not matches and any(f".{name}.".find(f".{pattern}.") >= 0 for name in known):
            matches = [pattern]
        if not matches:
            raise UsageError(
                "{kind} has no module {pattern}, which the recipe wants kept",
                hint="its modules are called like {examples}",
                kind=type(module).__name__,
                pattern=pattern,
                examples=", ".join(known[:: max(1, len(known) // 3)][:3]),
            )
        found += matches
    return found


def own_modules(wide: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """Returns what the module calls the parts that ``wide`` names by prefixes of published keys."""
    prefixes = list(wide)
    below = (key for key in names if any(is_within(key, prefix) for prefix in prefixes))
    return list(dict.fromkeys(module_of(names[key]) for key in below))


def raw(module: torch.nn.Module) -> list[str]:
    """Returns the layers whose weights another module takes to multiply with them itself.

    torch's ``multi_head_attention_forward`` does so, and knows of no quantized tensor.
    """
    return [
        f"{name}.{layer}"
        for name, one in module.named_modules()
        if name and (isinstance(one, torch.nn.MultiheadAttention) or type(one).__name__ in _POOLS)
        for layer, held in one.named_modules()
        if isinstance(held, torch.nn.Linear)
    ]


def left(
    group: Group, written: str, layer: torch.nn.Module | None, kept: Iterable[str], tool: str
) -> Group:
    """Returns the group of a tensor that is not quantized, with the reason if it might have been.

    Args:
        group: As it is cast.
        written: Its key in the file.
        layer: The module it belongs to.
        kept: The modules that were asked to be kept.
        tool: Which quantizer left it.
    """
    entries = tuple(replace(entry, name=written) for entry in group.entries)
    might = isinstance(layer, torch.nn.Linear) and written.endswith(".weight")
    if group.why or not might:
        return replace(group, entries=entries)
    asked = any(f"{name}." in f"{written}" for name in kept)
    return replace(group, entries=entries, why=ASKED if asked else f"{tool} leaves it")
