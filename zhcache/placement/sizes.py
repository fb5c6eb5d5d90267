"""What weights take, told by the names and the headers of their files. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zhcache.placement.activation import Needs

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    # Nothing computes in eight bits: stored so, they are read into the type that holds them all.
    "F8_E4M3": "bfloat16",
    "F8_E5M2": "bfloat16",
}
"""What computes, by the names that safetensors' headers have for it."""

_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)"
    r"(?:\.(?P<variant>[A-Za-z0-9_]+))?"
    r"(?:-\d{5}-of-\d{5})?"
    r"(?:\.(?P<late>[A-Za-z0-9_]+))?"
    r"\.safetensors"
)
_OF_QUANTIZED = re.compile(r"(?:scale|zero_point|svd_up|svd_down)(?:_2)?$")
"""Names that torchao and sdnq give to what a quantized weight is restored with."""

_BLOCK = re.compile(r"(.*?\.\d+)\.")
_PREFERRED = ("fp16", "bf16", "fp32")
_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*([KMG]I?B)?", re.IGNORECASE)


class Tensor(NamedTuple):
    """One tensor of a file: its name, safetensors' name of its dtype, and its bytes."""

    name: str
    dtype: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Part:
    """The weights of one component.

    Attributes:
        bytes: All of them.
        largest: Bytes of the largest tensor, which offloading moves as one.
        block: Bytes of the largest run of layers that stays together when a component is cut.
        dtype: What they compute in, by torch's name; None where there are none.
    """

    bytes: int
    largest: int = 0
    block: int = 0
    dtype: str | None = None


@dataclass(frozen=True)
class Form:
    """One form of the weights that is here.

    Attributes:
        variant: Its name; None is as published.
        parts: Bytes of each component's weights.
        largest: Bytes of the largest single tensor, which offloading moves as one.
        is_there: The device has them already, shared, so that they cost nothing more.
        needs: What calls of this form were seen to take; None where none was seen.
        note: How that is known.
    """

    variant: str | None
    parts: Mapping[str, int]
    largest: int
    is_there: bool = False
    needs: Needs | None = None
    note: str = ""

    @property
    def bytes(self) -> int:
        """All weights."""
        return sum(self.parts.values())


Named = Mapping[str | None, Sequence[str]]
"""The files with weights of one component, by the variant that their names say."""


def by_variant(names: Iterable[str]) -> dict[str | None, list[str]]:
    """Returns which of a component's files hold weights, by the variant of their names."""
    files: dict[str | None, list[str]] = {}
    for name in sorted(names):
        if found := _WEIGHTS.fullmatch(name):
            files.setdefault(found["variant"] or found["late"], []).append(name)
    return files


def needed_variant(components: Sequence[Named]) -> str | None:
    """Returns what ``from_pretrained`` needs as ``variant=``; None where plain files are enough."""
    lacking = [files for files in components if None not in files]
    if not lacking:
        return None
    common = set[str | None](lacking[0]).intersection(*lacking)
    names = sorted(name for name in common if name is not None)
    return next((name for name in _PREFERRED if name in names), names[0] if names else None)


def picked(files: Named, variant: str | None) -> Sequence[str]:
    """Returns the files of a component that are read where the pipeline needs ``variant``."""
    return files.get(variant) or files.get(None) or next(iter(files.values()))


def dtype_of(tensors: Iterable[Tensor], *, of_rest: bool) -> str | None:
    """Returns the dtype that holds most bytes: norms are often kept wider than the rest.

    With ``of_rest`` what belongs to quantized weights is left out: it may be of any.
    """
    held: Counter[str] = Counter()
    for tensor in tensors:
        if of_rest and (_OF_QUANTIZED.search(tensor.name) or tensor.dtype.startswith("F8")):
            continue
        if tensor.dtype in DTYPES:
            held[DTYPES[tensor.dtype]] += tensor.bytes
    return held.most_common(1)[0][0] if held else None


def part(tensors: Sequence[Tensor], *, is_quantized: bool = False) -> Part:
    """Returns what a component takes that has these tensors."""
    blocks: Counter[str] = Counter()
    for tensor in tensors:
        found = _BLOCK.match(tensor.name)
        blocks[found[1] if found else tensor.name] += tensor.bytes
    return Part(
        sum(tensor.bytes for tensor in tensors),
        max((tensor.bytes for tensor in tensors), default=0),
        max(blocks.values(), default=0),
        dtype_of(tensors, of_rest=is_quantized),
    )


def bytes_of(text: str) -> int | None:
    """Returns the bytes that a size such as ``24GiB`` means; None where it is no size above 0."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        return None
    return int(float(found[1]) * _UNITS[(found[2] or "").upper()])


def shown(count: int) -> str:
    """Returns a number of bytes as sentences have it: ``1.70 GiB``, ``12 MiB``."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.0f} MiB"
