"""A component's weights as a snapshot holds them: which set of files is read, in which order. Pure.

Stock loading decides by name: diffusers takes a shard index before a single file, transformers the
single file before the index, each by stems of its own.

Source: ``ModelMixin.from_pretrained`` of diffusers 0.42, ``PreTrainedModel.from_pretrained`` of
transformers 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from zhcache.errors import IntegrityError
from zhcached.sources.pipeline_files import WeightName, weight_name
from zhcached.store.snapshots import ManifestFile

MAX_INDEX = 8 * 2**20
"""Bytes of a shard index; those of the largest models have 200 KiB."""

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")


class Weights(msgspec.Struct, frozen=True):
    """One set: a single file, or shards and their index.

    Attributes:
        files: In the order of the shards.
        index: The shard index, if they are shards.
        plain: The plain name of each file's name, the index's too.
    """

    files: tuple[ManifestFile, ...]
    index: ManifestFile | None
    plain: dict[str, str]

    @property
    def bytes(self) -> int:
        """Of all files of weights."""
        return sum(file.size for file in self.files)


class _Index(msgspec.Struct):
    weight_map: dict[str, str]
    metadata: dict[str, Any] = {}


def choose(files: Iterable[ManifestFile], library: str, variant: str | None) -> Weights | None:
    """Returns the set of safetensors that is read, or None if there is none of this variant.

    Args:
        files: Of the component's folder.
        library: ``diffusers``, or whose class reads it.
        variant: The published dtype variant; None for the plain weights.

    Raises:
        IntegrityError: There are shards without an index.
    """
    by_stem: dict[str, list[tuple[WeightName, ManifestFile]]] = {}
    for file in files:
        found = weight_name(base(file.path))
        if found and found.suffix == "safetensors" and found.variant == variant:
            by_stem.setdefault(found.stem, []).append((found, file))
    if not by_stem:
        return None
    stems = _STEMS if library == "diffusers" else (*_STEMS[1:], _STEMS[0])
    named = by_stem[next(stem for stem in stems if stem in by_stem)]
    index = next((file for name, file in named if name.is_index), None)
    single = next((file for name, file in named if not (name.is_index or name.shard)), None)
    shards = tuple(
        file
        for _, _, file in sorted(
            (name.shard, file.path, file) for name, file in named if name.shard
        )
    )
    plain = {base(file.path): name.plain for name, file in named}
    if single is not None and (index is None or library != "diffusers"):
        return Weights((single,), None, plain)
    if index is None:
        raise IntegrityError(
            "the shards of {path} have no index",
            hint="it was published so, or only part of it is here: `zhcache prefetch` fetches all",
            path=shards[0].path.rpartition("/")[0],
        )
    return Weights(shards, index, plain)


def variants(files: Iterable[ManifestFile]) -> list[str]:
    """Returns the dtype variants of which a folder has safetensors, besides the plain weights."""
    named = (weight_name(base(file.path)) for file in files)
    found = {n.variant for n in named if n and n.suffix == "safetensors" and not n.is_index}
    return sorted(variant for variant in found if variant and variant != "non_ema")


def shards(weights: Weights, index: bytes) -> tuple[Weights, list[str]]:
    """Returns the weights without files that the index does not name, and which of it lack.

    Raises:
        IntegrityError: The index cannot be read, or names one shard in two spellings.
    """
    named = set(_read(weights, index).weight_map.values())
    files = tuple(file for file in weights.files if base(file.path) in named)
    if len({weights.plain[base(file.path)] for file in files}) < len(files):
        raise _unreadable(weights, "two of its shards have one plain name")
    lacking = sorted(named - {base(file.path) for file in files})
    return msgspec.structs.replace(weights, files=files), lacking


def renamed(weights: Weights, index: bytes) -> bytes:
    """Returns the index with its shards under their plain names.

    Raises:
        IntegrityError: The index cannot be read, or names what is no shard.
    """
    read = _read(weights, index)
    try:
        weight_map = {key: weights.plain[name] for key, name in read.weight_map.items()}
    except KeyError as error:
        raise _unreadable(weights, f"{error} is no shard") from error
    content = {"metadata": read.metadata, "weight_map": weight_map}
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def base(path: str) -> str:
    """Returns a path's last part."""
    return path.rpartition("/")[2]


def _read(weights: Weights, index: bytes) -> _Index:
    try:
        return msgspec.json.decode(index, type=_Index)
    except (ValueError, RecursionError) as error:
        raise _unreadable(weights, str(error)) from error


def _unreadable(weights: Weights, reason: str) -> IntegrityError:
    return IntegrityError(
        "the shard index {path} cannot be used: {reason}",
        hint="it was published so and the store is sound: take another revision",
        path=weights.index.path if weights.index else "",
        reason=reason,
    )
