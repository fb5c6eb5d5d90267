"""Whether a folder holds what ``from_pretrained`` will ask of it. Reads JSON files, no weights."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from zhcache.errors import NotPermitted

WEIGHTS = (".safetensors", ".bin", ".gguf", ".msgpack", ".h5", ".onnx")


def is_closed(folder: Path) -> bool:
    """Tells whether the files in a snapshot's folder are closed to this user.

    What is missing is another matter, and told with its name by who misses it.
    """
    try:
        for path in folder.iterdir():
            path.stat()
            if not os.access(path, os.R_OK):
                return True
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def check_open(folder: Path) -> None:
    """Checks that this user may read the files in a snapshot's folder.

    Raises:
        NotPermitted: They are closed to him: he may ask the daemon, not read its store.
    """
    if is_closed(folder):
        raise NotPermitted(
            "the files in {folder} are closed to you",
            hint="zhcache.load_pipeline() and zhcache run work all the same; for the files"
            " themselves ask the administrator to add you to the group that may read them",
            folder=folder,
        )


def gaps(folder: Path, elsewhere: Collection[str] = ()) -> list[str]:
    """Returns what is missing from a model's folder, as paths relative to it.

    A pipeline needs each component that ``model_index.json`` names; a component that has a shard
    index needs each shard of it. A single model needs its ``config.json``. A folder that is
    neither is taken as lacking its configuration. An index that cannot be read lacks nothing: to
    fetch it again would not mend it, and whoever reads it says what is wrong.

    Args:
        folder: The model's folder.
        elsewhere: Paths of what belongs there and is had in another way.

    Raises:
        NotPermitted: This user may not read it.
    """
    check_open(folder)
    index = _json(folder / "model_index.json")
    if index is None:
        is_there = any((folder / name).exists() for name in ("model_index.json", "config.json"))
        return [] if is_there else ["model_index.json"]
    lacking: list[str] = []
    for name, kind in index.items():
        if not name.startswith("_") and _is_component(kind):
            lacking += _component_gaps(folder, name, elsewhere)
    return lacking


def _is_component(kind: Any) -> bool:
    return isinstance(kind, list) and len(kind) == 2 and all(isinstance(k, str) for k in kind)


def _component_gaps(folder: Path, name: str, elsewhere: Collection[str]) -> list[str]:
    part = folder / name
    held = {entry.name for entry in part.iterdir()} if part.is_dir() else set[str]()
    held |= {path.removeprefix(f"{name}/") for path in elsewhere if path.startswith(f"{name}/")}
    if not held:
        return [f"{name}/"]
    lacking = {
        shard
        for index in held
        if ".safetensors.index" in index
        for shard in shards(part / index)
        if shard not in held
    }
    is_model = "config.json" in held and not any(entry.startswith("tokenizer") for entry in held)
    if is_model and not any(entry.endswith(WEIGHTS) for entry in held):
        return [f"{name}/*.safetensors"]
    return [f"{name}/{shard}" for shard in sorted(lacking)]


def shards(index: Path) -> set[str]:
    """Returns the files a shard index names; none if it cannot be read."""
    table = _json(index) or {}
    weight_map = table.get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    return {name for name in names if isinstance(name, str)}


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
