"""In what precision a pipeline was published: read from the weights' headers, without torch.

``from_pretrained`` without a dtype makes float32 of whatever a diffusers component holds, and
follows its own config in a transformers one, so a half-precision tree comes out mixed and breaks
at the first step. Asking for the dtype that is on the disk gives what was published, and lets the
weights stay memory-mapped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from zhcache.errors import IntegrityError, UsageError
from zhcache.placement.sizes import Tensor, by_variant, dtype_of, needed_variant, picked

MAX_HEADER = 16 * 2**20
"""Bytes of a safetensors header; the largest published ones are a few MiB."""


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
    by_component = {name: by_variant(_names(folder / name)) for name in components(folder)}
    weighted = {name: files for name, files in by_component.items() if files}
    variant = needed_variant(list(weighted.values()))
    quantized = frozenset(name for name in weighted if _is_quantized(folder / name))
    dtypes: dict[str, str] = {}
    read: dict[str, list[Path]] = {}
    for name, files in weighted.items():
        read[name] = [folder / name / file for file in picked(files, variant)]
        held = chain.from_iterable(map(tensors, read[name]))
        dtype = dtype_of(held, of_rest=name in quantized)
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


def _names(component: Path) -> list[str]:
    return [file.name for file in component.glob("*.safetensors")]


def _is_quantized(component: Path) -> bool:
    try:
        config: Any = json.loads((component / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "quantization_config" in config


def tensors(file: Path) -> list[Tensor]:
    """Returns the tensors of a safetensors file.

    Raises:
        IntegrityError: It is none.
    """
    return [
        Tensor(name, said["dtype"], said["data_offsets"][1] - said["data_offsets"][0])
        for name, said in header(file).items()
        if name != "__metadata__"
    ]


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
