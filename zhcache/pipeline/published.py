"""In what precision a pipeline was published: read from the weights' headers, without torch.

``from_pretrained`` without a dtype makes float32 of whatever a diffusers component holds, and
follows its own config in a transformers one, so a half-precision tree comes out mixed and breaks
at the first step. Asking for the dtype that is on the disk gives what was published, and lets the
weights stay memory-mapped.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhcache.errors import IntegrityError, UsageError

MAX_HEADER = 16 * 2**20
"""Bytes of a safetensors header; the largest published ones are a few MiB."""

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    # Nothing computes in eight bits: stored so, they are read into the type that holds them all.
    "F8_E4M3": "bfloat16",
    "F8_E5M2": "bfloat16",
}
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)"
    r"(?:\.(?P<variant>[A-Za-z0-9_]+))?"
    r"(?:-\d{5}-of-\d{5})?"
    r"(?:\.(?P<late>[A-Za-z0-9_]+))?"
    r"\.safetensors"
)
_OF_QUANTIZED = re.compile(r"(?:scale|zero_point|svd_up|svd_down)(?:_2)?$")
"""Names that torchao and sdnq give to what a quantized weight is restored with."""

_PREFERRED = ("fp16", "bf16", "fp32")


@dataclass(frozen=True)
class Published:
    """How a pipeline's folder is to be read.

    Attributes:
        dtypes: For each component with weights the name of its torch dtype.
        variant: What ``from_pretrained`` needs as ``variant=`` where some component was
            published under a variant's file names alone; else None.
        with_variant: The components that have files of it.
        files: The weights that are read, for each component.
        quantized: The components whose weights are quantized; ``dtypes`` has what they compute in.
    """

    dtypes: Mapping[str, str]
    variant: str | None
    with_variant: frozenset[str] = field(default=frozenset(), compare=False)
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict, compare=False)
    quantized: frozenset[str] = frozenset()

    @property
    def default(self) -> str:
        """The dtype of most components, float32 where none has weights."""
        most = Counter(self.dtypes.values()).most_common(1)
        return most[0][0] if most else "float32"

    def variant_of(self, component: str) -> str | None:
        """Returns what the component's own ``from_pretrained`` needs as ``variant=``."""
        return self.variant if component in self.with_variant else None


def published(folder: Path) -> Published:
    """Returns how the pipeline in ``folder`` was published.

    Raises:
        UsageError: ``folder`` is no diffusers pipeline.
        IntegrityError: Its index cannot be read, or a weights file has no sound header.
    """
    by_component = {name: _by_variant(folder / name) for name in components(folder)}
    weighted = {name: files for name, files in by_component.items() if files}
    variant = _needed_variant(list(weighted.values()))
    quantized = frozenset(name for name in weighted if _is_quantized(folder / name))
    dtypes: dict[str, str] = {}
    read: dict[str, list[Path]] = {}
    for name, files in weighted.items():
        read[name] = files.get(variant) or files.get(None) or next(iter(files.values()))
        dtype = _dtype(read[name], of_rest=name in quantized)
        if dtype is not None:
            dtypes[name] = dtype
    has_it = frozenset(name for name, files in weighted.items() if variant in files)
    return Published(dtypes, variant, has_it, read, quantized)


def components(folder: Path) -> dict[str, tuple[str, str]]:
    """Returns library and class of each component that a pipeline's index names.

    Raises:
        UsageError: There is no index.
        IntegrityError: There is one that cannot be read.
    """
    # One that is absent has two nulls.
    return {
        name: (kind[0], kind[1])
        for name, kind in index(folder).items()
        if isinstance(kind, list) and len(kind) == 2 and all(isinstance(k, str) for k in kind)
    }


def index(folder: Path) -> dict[str, Any]:
    """Returns a pipeline's index.

    Raises:
        UsageError: There is none.
        IntegrityError: There is one that cannot be read.
    """
    reason = "it is no object"
    try:
        found: Any = json.loads((folder / "model_index.json").read_bytes())
    except FileNotFoundError:
        raise UsageError(
            "{folder} is not a diffusers pipeline: it has no model_index.json",
            hint="load it with its own library from zhcache.path(...)",
            folder=folder,
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        found, reason = None, str(error)
    if isinstance(found, dict):
        return found
    raise IntegrityError(
        "the model_index.json of {where} cannot be read: {reason}",
        hint="`zhcache verify REPO` checks it; where it finds nothing it was published so: take"
        " another revision",
        where=folder,
        reason=reason,
    )


def has_weights(component: Path) -> bool:
    """Tells whether a component's folder holds safetensors."""
    return next(component.glob("*.safetensors"), None) is not None


def _by_variant(component: Path) -> dict[str | None, list[Path]]:
    files: dict[str | None, list[Path]] = {}
    for file in sorted(component.glob("*.safetensors")):
        if found := _WEIGHTS.fullmatch(file.name):
            files.setdefault(found["variant"] or found["late"], []).append(file)
    return files


def _needed_variant(weighted: list[dict[str | None, list[Path]]]) -> str | None:
    lacking = [files for files in weighted if None not in files]
    if not lacking:
        return None
    common = set[str | None](lacking[0]).intersection(*lacking)
    names = sorted(name for name in common if name is not None)
    return next((name for name in _PREFERRED if name in names), names[0] if names else None)


def _is_quantized(component: Path) -> bool:
    try:
        config: Any = json.loads((component / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "quantization_config" in config


def _dtype(files: list[Path], *, of_rest: bool) -> str | None:
    """Returns the dtype that holds most bytes: norms are often kept wider than the rest.

    With ``of_rest`` what belongs to quantized weights is left out: it may be of any.
    """
    held: Counter[str] = Counter()
    for file in files:
        for name, tensor in header(file).items():
            if of_rest and (_OF_QUANTIZED.search(name) or tensor.get("dtype", "").startswith("F8")):
                continue
            if name != "__metadata__" and tensor["dtype"] in _DTYPES:
                start, end = tensor["data_offsets"]
                held[_DTYPES[tensor["dtype"]]] += end - start
    return held.most_common(1)[0][0] if held else None


def header(file: Path) -> dict[str, Any]:
    """Returns the tensor table of a safetensors file; of each tensor, dtype and offsets are sound.

    Source: https://huggingface.co/docs/safetensors, "Format": eight bytes of length, then JSON.

    Raises:
        IntegrityError: It is none.
    """
    try:
        with file.open("rb") as source:
            length = int.from_bytes(source.read(8), "little")
            table: Any = json.loads(source.read(length)) if length <= MAX_HEADER else None
    except (OSError, ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or not all(
        name == "__metadata__" or _is_tensor(said) for name, said in table.items()
    ):
        raise IntegrityError(
            "{file} is not a safetensors file", hint="run `zhcache verify`", file=file
        )
    return table


def _is_tensor(said: Any) -> bool:
    match said:
        case {"dtype": str(), "data_offsets": [int(start), int(end)]}:
            return 0 <= start <= end
        case _:
            return False
