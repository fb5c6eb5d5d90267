"""Whether all of a model is there: its components, their weights, their shards, every byte.

A copy that has stopped growing may be one that has stalled. What can be known without hashing is
read from ``model_index.json``, shard indexes and the headers of safetensors.

Source of the rules: ``zhcache.completeness``, which judges what is in the store by the same; of the
header: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from zhcache.completeness import WEIGHTS
from zhcache.errors import Incomplete, NotPermitted, UsageError, ZhcacheError
from zhcached.sources import pickles
from zhcached.sources.pipeline_files import components_of
from zhcached.watch.recognise import Model

MAX_HEADER = 32 * 2**20
MAX_INDEX = 8 * 2**20

Read = Callable[[str, int], bytes]
"""Returns at most so many first bytes of the file with that path in the repository."""


class _Tensor(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def lacking(model: Model, read: Read) -> ZhcacheError | None:
    """Returns what is missing of a model, or why it cannot be read; None if it is whole.

    Args:
        model: Files that came to rest.
        read: Reads one of them.
    """
    try:
        is_one_file = model.kind == "checkpoint"
        missing = [] if is_one_file else sorted({*_components(model, read), *_shards(model, read)})
        if not missing:
            missing = _no_weights(model)
        if missing:
            return _missing(missing)
        for path in sorted(model.files):
            if path.endswith(".safetensors"):
                check_weights(path, model.files[path].identity.size, read)
    except Incomplete as error:
        return error
    except UsageError as error:
        return error
    except OSError as error:
        return NotPermitted(
            "it cannot be read: {reason}",
            hint="let the daemon's user, uid {uid}, read it",
            reason=error.strerror,
            uid=os.geteuid(),
        )
    return None


def check_weights(path: str, size: int, read: Read) -> None:
    """Checks that a safetensors file is as long as its header says.

    Raises:
        Incomplete: It is not, or the header is none.
        OSError: It cannot be read.
    """
    start = read(path, 8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER, max(0, size - 8)):
        raise _half(path, size, 8 + length if 2 <= length <= MAX_HEADER else None)
    try:
        header = msgspec.json.decode(read(path, 8 + length)[8:], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        tensors = [msgspec.json.decode(raw, type=_Tensor) for raw in header.values()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _half(path, size, None) from error
    spans = sorted(tensor.data_offsets for tensor in tensors)
    end = 0
    for first, last in spans:
        if first != end or last < first:
            raise _half(path, size, None)
        end = last
    if 8 + length + end != size:
        raise _half(path, size, 8 + length + end)


def _half(path: str, size: int, meant: int | None) -> Incomplete:
    if meant is None:
        return Incomplete("{path} has no sound safetensors header yet", path=path)
    return Incomplete("{path} has {size} of {meant} bytes", path=path, size=size, meant=meant)


def _components(model: Model, read: Read) -> list[str]:
    """Returns which components of a pipeline are not there, or have no weights."""
    if "model_index.json" not in model.files:
        is_single = {"config.json", "adapter_config.json"}.intersection(model.files)
        is_pipeline = model.kind == "plain" and not is_single
        return ["model_index.json"] if is_pipeline else []
    named = components_of(read("model_index.json", MAX_INDEX))
    if named is None:
        raise Incomplete("{path} cannot be read as JSON yet", path="model_index.json")
    held: dict[str, set[str]] = defaultdict(set)
    for path in model.files:
        top, _, rest = path.partition("/")
        held[top].add(rest)
    index = msgspec.json.decode(read("model_index.json", MAX_INDEX), type=dict[str, Any])
    missing: list[str] = []
    for name in named:
        if not _is_component(index[name]):
            continue
        names = held.get(name, set())
        is_model = "config.json" in names and not any(n.startswith("tokenizer") for n in names)
        if not names:
            missing.append(f"{name}/")
        elif is_model and not any(_is_weights(entry) for entry in names):
            missing.append(f"{name}/*.safetensors")
    return missing


def _is_component(kind: Any) -> bool:
    return isinstance(kind, list) and len(kind) == 2 and all(isinstance(k, str) for k in kind)


def _is_weights(path: str) -> bool:
    # Pickles too: that they are refused is told by who takes the model in.
    return path.endswith(WEIGHTS) or pickles.is_pickle(path)


def _shards(model: Model, read: Read) -> list[str]:
    missing: list[str] = []
    for path in model.files:
        folder, slash, name = path.rpartition("/")
        if ".safetensors.index" not in name or not name.endswith(".json"):
            continue
        try:
            index = msgspec.json.decode(read(path, MAX_INDEX), type=_Index)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Incomplete("{path} cannot be read as JSON yet", path=path) from error
        shards = set(index.weight_map.values())
        missing += [
            folder + slash + shard for shard in shards if folder + slash + shard not in model.files
        ]
    return missing


def _no_weights(model: Model) -> list[str]:
    """Returns what a model of one component lacks."""
    if "model_index.json" in model.files or any(_is_weights(path) for path in model.files):
        return []
    return ["*.safetensors"]


def _missing(paths: list[str]) -> Incomplete:
    shown = ", ".join(paths[:5]) + (", …" if len(paths) > 5 else "")
    return Incomplete("{count} files are missing: {paths}", count=len(paths), paths=shown)
