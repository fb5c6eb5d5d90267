"""Which files of a repository ``from_pretrained`` reads. Pure, by name alone.

The rule is diffusers': for each component folder one set of weights in one dtype variant and all
small files; of the root the configuration files. Where ``model_index.json``, which names the
components, is not at hand, a folder counts as one when it holds a configuration: a safe superset.

Source: ``DiffusionPipeline.download`` and ``variant_compatible_siblings`` of diffusers 0.42,
``PreTrainedModel.from_pretrained`` of transformers 5 for repositories without model_index.json.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import msgspec

from zhcache.protocol.names import RepoPath

_STEM = r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)"
_SHARD = r"\d{5}-of-\d{5}"
_WEIGHTS = re.compile(
    rf"{_STEM}(?:(?:\.(?P<variant>\w+))?(?:-(?P<shard>{_SHARD}))?"
    rf"|-(?P<old_shard>{_SHARD})\.(?P<old>\w+))"
    r"\.(?P<suffix>safetensors|bin)"
)
_INDEX = re.compile(
    rf"{_STEM}\.(?P<suffix>safetensors|bin)"
    r"(?:\.(?P<old>\w+))?\.index(?:\.(?P<variant>\w+))?\.json"
)
_HEAVY = (
    ".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".msgpack", ".h5", ".onnx",
    ".onnx_data", ".pb", ".xml", ".gguf", ".ggml", ".tflite", ".mlmodel", ".mlpackage", ".npz",
    ".flashpack", ".tar", ".zip", ".engine", ".plan",
)  # fmt: skip
_CONFIGS = (
    "config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json",
    "processor_config.json", "tokenizer.json", "vocab.json", "image_processor_config.json",
)  # fmt: skip
_ROOT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".py", ".spm", ".tiktoken")
_PAPERS = ("readme", "license", "licence", "notice", "use_policy")


class WeightName(NamedTuple):
    """What the name of a file of weights, or of their index, says.

    Attributes:
        stem: ``model``, ``diffusion_pytorch_model`` or ``pytorch_model``.
        variant: The dtype variant it is of, ``fp16`` and the like; None for the plain weights.
        shard: ``00001-of-00002``; None for a single file and for an index.
        suffix: ``safetensors`` or ``bin``.
        is_index: Whether it is an index of shards.
    """

    stem: str
    variant: str | None
    shard: str | None
    suffix: str
    is_index: bool

    @property
    def plain(self) -> str:
        """The name that the same part of the plain weights has."""
        shard = f"-{self.shard}" if self.shard else ""
        return f"{self.stem}{shard}.{self.suffix}" + (".index.json" if self.is_index else "")


def weight_name(name: str) -> WeightName | None:
    """Returns what a file's name, without folders, says of weights; None if they are none."""
    if found := _WEIGHTS.fullmatch(name):
        shard = found["shard"] or found["old_shard"]
        dtype = found["variant"] or found["old"]
        return WeightName(found["stem"], dtype, shard, found["suffix"], is_index=False)
    if found := _INDEX.fullmatch(name):
        dtype = found["variant"] or found["old"]
        return WeightName(found["stem"], dtype, None, found["suffix"], is_index=True)
    return None


def components_of(model_index: bytes) -> frozenset[str] | None:
    """Returns the component folders ``model_index.json`` names, or None if it cannot be read."""
    try:
        entries = msgspec.json.decode(model_index, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return frozenset(
        name
        for name, value in entries.items()
        if isinstance(value, list) and not name.startswith("_")
    )


def is_heavy(path: str) -> bool:
    """Tells whether a file holds weights, or is an archive, by its name."""
    return path.lower().endswith(_HEAVY)


def read_by_from_pretrained(
    listing: Iterable[RepoPath],
    *,
    variant: str | None = None,
    components: Collection[str] | None = None,
) -> frozenset[RepoPath]:
    """Returns the paths that loading the repository reads.

    A repository with neither ``model_index.json`` nor ``config.json`` at its root, such as a
    LoRA, is read file by file: all of it counts, other frameworks' formats apart.

    Args:
        listing: All paths of the repository.
        variant: ``fp16`` and the like; a component without it falls back to the plain weights.
        components: What ``components_of`` read, where it is known.
    """
    paths = frozenset(listing)
    if not paths & {"model_index.json", "config.json"}:
        return frozenset(path for path in paths if not _other_framework(path))
    folders: dict[str, list[RepoPath]] = defaultdict(list)
    for path in paths:
        folders[path.rpartition("/")[0]].append(path)
    named = {
        folder
        for folder in folders
        if "/" not in folder and _is_component(folder, folders[folder], components)
    }
    kept: set[RepoPath] = set()
    for folder in named:
        kept.update(_weights(folders[folder], variant))
    kept.update(path for path in paths if _is_small_part(path, named))
    return frozenset(kept)


def read_for(
    listing: Iterable[RepoPath],
    variants: Iterable[str | None],
    *,
    components: Collection[str] | None = None,
) -> frozenset[RepoPath]:
    """Returns the paths that loading any of these variants reads; None is the plain weights."""
    paths = frozenset(listing)
    return frozenset(
        path
        for variant in variants
        for path in read_by_from_pretrained(paths, variant=variant, components=components)
    )


def _is_component(
    folder: str, paths: Iterable[RepoPath], components: Collection[str] | None
) -> bool:
    if folder == "" or components is not None:
        return folder == "" or folder in (components or ())
    return not {path.rpartition("/")[2] for path in paths}.isdisjoint(_CONFIGS)


def _is_small_part(path: RepoPath, named: set[str]) -> bool:
    top, slash, rest = path.partition("/")
    if not slash:
        return (path.endswith(_ROOT_SUFFIXES) and not _INDEX.fullmatch(path)) or _is_paper(path)
    name = rest.rpartition("/")[2]
    return top in named and not name.endswith(_HEAVY) and not _INDEX.fullmatch(name)


def _is_paper(name: str) -> bool:
    return name.lower().startswith(_PAPERS)


def _weights(paths: Iterable[RepoPath], variant: str | None) -> list[RepoPath]:
    """Returns one component's weights and their index: one format, one dtype variant."""
    groups: dict[tuple[str, str | None], list[RepoPath]] = defaultdict(list)
    for path in paths:
        if found := weight_name(path.rpartition("/")[2]):
            groups[found.suffix, found.variant].append(path)
    safe_variants = {dtype for suffix, dtype in groups if suffix == "safetensors"}
    suffix = "safetensors" if safe_variants else "bin"
    dtypes = {dtype for format_, dtype in groups if format_ == suffix}
    for choice in (variant, None):
        if choice in dtypes:
            return groups[suffix, choice]
    # A component published in variants alone: from_pretrained without variant= would fail on it,
    # and a snapshot without any weights of it would be useless to everybody.
    return [path for dtype in dtypes if dtype != "non_ema" for path in groups[suffix, dtype]]


def _other_framework(path: str) -> bool:
    name = path.rpartition("/")[2]
    top = path.partition("/")[0] if "/" in path else ""
    return (
        name.endswith((".msgpack", ".h5", ".onnx", ".onnx_data", ".tflite", ".mlmodel"))
        or name.startswith("openvino_")
        or top in ("onnx", "openvino", "flax", "coreml")
    )
