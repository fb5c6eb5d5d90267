"""Weights in four bits as sdnq stores them: packed ``uint4`` with a scale and zero for each group.

Their module's own names lie in the file, so that readers need no metadata but the configuration.
Which weights, and in what groups, is asked of sdnq itself on a module without weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from zhcache.errors import UsageError, ZhcacheError
from zhcached.workers import choosing
from zhcached.workers.choosing import Choice
from zhcached.workers.naming import is_of_transformers, own_names, written
from zhcached.workers.schemes import Entry, Group, Scheme
from zhcached.workers.tensors import TensorInfo

# Read at import. It would compile a kernel to see whether it can, which workers may not do.
os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")
from sdnq import SDNQConfig, sdnq_quantize_layer

COMPUTED_IN = torch.bfloat16
_SPELLED = {torch.uint8: "U8", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class _Layer:
    name: str
    dequantizer: Any


class Sdnq:
    """``int4``: groups along the rows, a scale and a zero point in bfloat16 for each.

    Args:
        group_size: Elements of a group; None: sdnq's own, 64 for linear layers. Where it does not
            divide a row, sdnq takes the next smaller number of equal groups.
        keep: Modules that are not quantized besides those sdnq keeps for the class.
        casts: What becomes of all tensors that are not quantized.
    """

    def __init__(self, group_size: int | None, keep: Sequence[str], casts: Scheme) -> None:
        self._group_size = group_size or 0
        self._keep = keep
        self._casts = casts
        self._settings: Any = None
        self._layers: dict[str, Any] = {}
        self._described: dict[str, Any] = {}

    def plan(
        self, tensors: Mapping[str, TensorInfo], module: torch.nn.Module, wide: Mapping[str, str]
    ) -> list[Group]:
        """As ``Scheme.plan``."""
        choosing.check(tensors, module)
        if is_of_transformers(module):
            raise UsageError(
                "{scheme} is for diffusers' modules: stock transformers reads no such weights",
                hint="give this component int8, fp8 or bf16 in the recipe",
                scheme="int4",
            )
        names = own_names(module, tensors)
        asked = choosing.modules(self._keep, module)
        kept = asked + choosing.own_modules(wide, names)
        wanted = SDNQConfig(
            weights_dtype="uint4",
            group_size=self._group_size,
            # Scales in float32 are rounded to bfloat16 when stock reads them again: so they are
            # made as they will be used, in half the bytes.
            dequantize_fp32=False,
            modules_to_not_convert=_weights(kept, names.values()),
        )
        choice = Choice(module, wanted, COMPUTED_IN)
        layers = dict(module.named_modules())
        # Asked for all first: it notes on its configuration what it leaves.
        taken = {key for key, name in names.items() if choice.takes(name)}
        self._settings, self._layers = choice.settings, {}
        planned: list[Group] = []
        for group in self._casts.plan(tensors, module, wide):
            name = names[group.source]
            key = written(module, group.source, name)
            if group.source in taken:
                planned.append(self._planned(tensors[group.source], name, key))
            else:
                layer = layers.get(name.rpartition(".")[0])
                planned.append(choosing.left(group, key, layer, asked, "sdnq"))
        self._described = _sorted(choice.described())
        return planned

    def convert(self, group: Group, read: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        """As ``Quantizing.convert``."""
        # Cast as stock does before the quantizer sees it, which computes in float32.
        weight = read().to(COMPUTED_IN).float()
        parts = _quantized(self._settings, weight, self._layers[group.source].name)[1]
        made = [parts[entry.name.rpartition(".")[2]] for entry in group.entries]
        for entry, tensor in zip(group.entries, made, strict=True):
            if entry.shape != tuple(tensor.shape) or entry.dtype != _SPELLED.get(tensor.dtype):
                raise ZhcacheError(
                    "{tool} made {name} another tensor than it had announced",
                    hint="this is a defect of zhcache or {tool}: a report of it helps",
                    tool="sdnq",
                    name=entry.name,
                )
        return made

    def restored(self, group: Group, made: list[torch.Tensor]) -> torch.Tensor:
        """As ``Quantizing.restored``, through what readers make of the file."""
        parts = {
            entry.name.rpartition(".")[2]: tensor
            for entry, tensor in zip(group.entries, made, strict=True)
        }
        return self._layers[group.source].dequantizer(**parts, skip_compile=True)

    def metadata(self, groups: list[Group]) -> dict[str, str]:
        """As ``Scheme.metadata``."""
        del groups
        return {}

    def config(self) -> dict[str, Any] | None:
        """As ``Scheme.config``."""
        return self._described

    def tools(self) -> dict[str, str]:
        """As ``Scheme.tools``."""
        return {**self._casts.tools(), "sdnq": version("sdnq")}

    def _planned(self, info: TensorInfo, name: str, key: str) -> Group:
        example = torch.empty(info.shape, dtype=torch.float32, device="meta")
        dequantizer, parts = _quantized(self._settings, example, name)
        self._layers[info.name] = _Layer(name, dequantizer)
        module = key.rpartition(".")[0]
        entries = tuple(
            Entry(f"{module}.{part}", _SPELLED[tensor.dtype], tuple(tensor.shape), info.name)
            # Wide ones first: odd numbers of bytes before them would leave them unaligned.
            for part, tensor in sorted(parts.items(), key=lambda p: (-p[1].itemsize, p[0]))
        )
        return Group(info.name, "quantize", entries)


def _quantized(
    settings: Any, weight: torch.Tensor, name: str
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Returns what restores the weight, and its parts by the names of the layer's parameters."""
    rows, columns = weight.shape
    layer = torch.nn.Linear(columns, rows, bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    made, _ = sdnq_quantize_layer(layer, settings, torch_dtype=COMPUTED_IN, param_name=name)
    return made.sdnq_dequantizer, dict(made.state_dict())


def _weights(modules: Collection[str], names: Iterable[str]) -> list[str]:
    """Returns the weights of modules and those below them: sdnq compares whole names, or parts."""
    return [
        name
        for name in names
        if name.endswith(".weight") and any(f".{module}." in f".{name}" for module in modules)
    ]


def _sorted(described: dict[str, Any]) -> dict[str, Any]:
    # Sets of its own make the order of its lists another in each process.
    return {
        name: sorted(value) if isinstance(value, list) else value
        for name, value in described.items()
    }
