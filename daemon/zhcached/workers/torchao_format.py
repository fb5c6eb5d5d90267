"""Weights in eight bits as torchao stores them, tensor by tensor, equal to stock's to the bit.

What stock ``from_pretrained(quantization_config=TorchAoConfig(...))`` does to a whole model in
memory is done here to one weight: cast to bfloat16, then torchao's own ``quantize_`` on a linear
layer of it. Which weights is asked of the library's own quantizer, on a module without weights.
Names and metadata in the file are those of ``torchao.prototype.safetensors``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torchao.prototype.safetensors.safetensors_support import (
    flatten_tensor_state_dict,
    unflatten_tensor_state_dict,
)
from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

from zhcache.errors import ZhcacheError
from zhcached.workers import choosing
from zhcached.workers.choosing import Choice
from zhcached.workers.naming import is_of_transformers, own_names, written
from zhcached.workers.schemes import Entry, Group, Scheme
from zhcached.workers.streaming import WHOLE
from zhcached.workers.tensors import TensorInfo

COMPUTED_IN = torch.bfloat16
"""What the weights that are not quantized, and all results, are in; int8 of torchao asks for it."""

BLOCK = 2**19
"""Elements that are quantized at once: rows have scales of their own, so blocks of rows do too."""

_CONFIGS: Mapping[str, Any] = {
    "fp8": Float8WeightOnlyConfig,
    "int8": Int8WeightOnlyConfig,
}
_SPELLED = {torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3", torch.float32: "F32"}
_ANY = "any.weight"


class TorchAo:
    """``fp8``: e4m3, a scale for each row. ``int8``: symmetric, a scale for each row.

    Args:
        name: Which of both.
        keep: Modules that are not quantized besides those their class keeps.
        casts: What becomes of all tensors that are not quantized.
    """

    def __init__(self, name: str, keep: Sequence[str], casts: Scheme) -> None:
        self._config = _CONFIGS[name]()
        self._keep = keep
        self._casts = casts
        self._stored: dict[str, str] = {}
        self._described: dict[str, Any] = {}

    def plan(
        self, tensors: Mapping[str, TensorInfo], module: torch.nn.Module, wide: Mapping[str, str]
    ) -> list[Group]:
        """As ``Scheme.plan``."""
        choosing.check(tensors, module)
        names = own_names(module, tensors)
        asked = choosing.modules(self._keep, module)
        kept = asked + choosing.own_modules(wide, names) + choosing.raw(module)
        choice = Choice(module, _settings(module, self._config, kept), COMPUTED_IN)
        layers = dict(module.named_modules())
        planned: list[Group] = []
        self._stored = {}
        for group in self._casts.plan(tensors, module, wide):
            name = names[group.source]
            key = written(module, group.source, name)
            if choice.takes(name):
                entries, self._stored[name] = _entries(self._config, tensors[group.source], key)
                planned.append(Group(group.source, "quantize", entries))
            else:
                self._stored[name] = json.dumps({"_type": "Tensor"})
                layer = layers.get(name.rpartition(".")[0])
                planned.append(choosing.left(group, key, layer, asked, "torchao"))
        self._described = choice.described()
        return planned

    def convert(self, group: Group, read: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        """As ``Quantizing.convert``."""
        weight = read()
        made = [torch.empty(one.shape, dtype=WHOLE[one.dtype]) for one in group.entries]
        for rows in _blocks(weight):
            parts, _ = _flat(_quantized(self._config, weight[rows].to(COMPUTED_IN)))
            for entry, whole in zip(group.entries, made, strict=True):
                part = parts[_suffix(entry.name)]
                if part.dtype != whole.dtype or part.shape != whole[rows].shape:
                    raise ZhcacheError(
                        "{tool} made {name} another tensor than it had announced",
                        hint="this is a defect of zhcache or {tool}: a report of it helps",
                        tool="torchao",
                        name=entry.name,
                    )
                whole[rows] = part
        return made

    def restored(self, group: Group, made: list[torch.Tensor]) -> torch.Tensor:
        """As ``Quantizing.restored``, through what readers make of the file."""
        flat = {
            f"any._weight_{_suffix(entry.name)}": tensor
            for entry, tensor in zip(group.entries, made, strict=True)
        }
        shape = flat["any._weight_qdata"].shape
        # A row says all that is not in the tensors.
        row = torch.empty((1, shape[1]), dtype=COMPUTED_IN, device="meta")
        said = {_ANY: _flat(_quantized(self._config, row))[1], "tensor_names": f'["{_ANY}"]'}
        whole = torch.empty(shape, dtype=COMPUTED_IN)
        for rows in _blocks(whole):
            block, _ = unflatten_tensor_state_dict({key: flat[key][rows] for key in flat}, said)
            whole[rows] = block[_ANY].dequantize()
        return whole

    def metadata(self, groups: list[Group]) -> dict[str, str]:
        """As ``Scheme.metadata``: all tensors in each file, as stock writes shards.

        Readers put the files' metadata together, and the last file's list of names counts.
        """
        del groups
        return {**self._stored, "tensor_names": json.dumps(list(self._stored))}

    def config(self) -> dict[str, Any] | None:
        """As ``Scheme.config``."""
        return self._described

    def tools(self) -> dict[str, str]:
        """As ``Scheme.tools``."""
        return {**self._casts.tools(), "torchao": version("torchao")}


def _quantized(config: Any, weight: torch.Tensor) -> torch.Tensor:
    # The setter of torch.compile's options that it names is for who runs the model.
    plain = dataclasses.replace(config, set_inductor_config=False)
    rows, columns = weight.shape
    layer = torch.nn.Linear(columns, rows, bias=False, device="meta", dtype=weight.dtype)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    quantize_(layer, plain)
    return layer.weight.data


def _flat(weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], str]:
    flat, said = flatten_tensor_state_dict({_ANY: weight})  # pyright: ignore[reportArgumentType]
    return {_suffix(key): tensor for key, tensor in flat.items()}, said[_ANY]


def _blocks(weight: torch.Tensor) -> Iterator[slice]:
    rows, columns = weight.shape
    step = max(1, BLOCK // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _suffix(key: str) -> str:
    return key.rpartition("._weight_")[2]


def _settings(module: Any, config: Any, kept: list[str]) -> Any:
    """Returns stock's ``quantization_config=`` of the module's library."""
    if is_of_transformers(module):
        from transformers import TorchAoConfig
        from transformers.quantizers.base import HfQuantizer

        # A list of one's own replaces what is left out otherwise, such as the output embedding.
        usual = HfQuantizer.get_modules_to_not_convert(module) if kept else []
        return TorchAoConfig(config, modules_to_not_convert=sorted({*usual, *kept}) or None)
    from diffusers.quantizers.quantization_config import TorchAoConfig

    return TorchAoConfig(config, modules_to_not_convert=kept or None)


def _entries(config: Any, info: TensorInfo, key: str) -> tuple[tuple[Entry, ...], str]:
    """Returns what is written for one weight and its metadata, from quantizing it without bytes."""
    example = torch.empty(info.shape, dtype=COMPUTED_IN, device="meta")
    parts, said = _flat(_quantized(config, example))
    module = key.rpartition(".")[0]
    entries = tuple(
        Entry(f"{module}._weight_{suffix}", _SPELLED[part.dtype], tuple(part.shape), info.name)
        # Wide ones first: odd numbers of bytes before them would leave them unaligned.
        for suffix, part in sorted(parts.items(), key=lambda part: (-part[1].itemsize, part[0]))
    )
    return entries, said
