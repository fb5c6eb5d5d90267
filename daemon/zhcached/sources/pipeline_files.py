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
from typing import Any

import msgspec

from zhcache.errors import NotFound
from zhcache.protocol.names import RepoPath

_SHARD = r"\d{5}-of-\d{5}"
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    rf"(?:(?:\.(?P<variant>\w+))?(?:-{_SHARD})?|-{_SHARD}\.(?P<old>\w+))"
    r"\.(?P<suffix>safetensors|bin)"
)
_INDEX = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)\.(?P<suffix>safetensors|bin)"
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

    Raises:
        NotFound: No component has the variant.
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
    if variant is not None and not any(
        _variant_of(path) == variant for folder in named for path in folders[folder]
    ):
        raise NotFound(
            "no weights of variant {variant} are published in this repository",
            hint="leave --variant out to fetch the plain weights; they can be converted here",
            variant=variant,
        )
    kept: set[RepoPath] = set()
    for folder in named:
        kept.update(_weights(folders[folder], variant))
    kept.update(path for path in paths if _is_small_part(path, named))
    return frozenset(kept)


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


def _variant_of(path: str) -> str | None:
    name = path.rpartition("/")[2]
    found = _WEIGHTS.fullmatch(name) or _INDEX.fullmatch(name)
    return (found["variant"] or found["old"]) if found else None


def _weights(paths: Iterable[RepoPath], variant: str | None) -> list[RepoPath]:
    """Returns one component's weights and their index: one format, one dtype variant."""
    groups: dict[tuple[str, str | None], list[RepoPath]] = defaultdict(list)
    for path in paths:
        name = path.rpartition("/")[2]
        found = _WEIGHTS.fullmatch(name) or _INDEX.fullmatch(name)
        if found:
            groups[found["suffix"], found["variant"] or found["old"]].append(path)
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
