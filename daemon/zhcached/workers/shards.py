"""The shard index of a component: checked against the shards' own headers, and written anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zhcache.errors import IntegrityError
from zhcached.workers.tensors import Header, TensorInfo

MAX_INDEX = 8 * 2**20
"""Bytes of an index; one line for each tensor."""


def merged(headers: Mapping[str, Header]) -> dict[str, TensorInfo]:
    """Returns the tensors of all files, in the files' order.

    Args:
        headers: Of each file of the component, by its path.

    Raises:
        IntegrityError: A tensor is in two of them.
    """
    tensors: dict[str, TensorInfo] = {}
    for path, header in headers.items():
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise _disagree(path, f"{name[:100]!r} is in {tensors[name].file} as well")
            tensors[name] = tensor
    return tensors


def read(folder: Path, path: str) -> dict[str, Any]:
    """Returns the index.

    Raises:
        IntegrityError: It cannot be read, or is none.
    """
    try:
        with (folder / path).open("rb") as source:
            text = source.read(MAX_INDEX + 1)
        if len(text) > MAX_INDEX:
            raise _disagree(path, f"it is longer than {MAX_INDEX} bytes")
        index: Any = json.loads(text.decode())
    except OSError as error:
        raise _disagree(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _disagree(path, f"it is no JSON: {error}"[:200]) from error
    mapped = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(mapped, dict) or not isinstance(index.get("metadata", {}), dict):
        raise _disagree(path, "it has no weight_map")
    return index


def check(path: str, index: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """Makes sure that the index and the shards tell of the same tensors.

    Raises:
        IntegrityError: They do not.
    """
    mapped: Mapping[str, Any] = index["weight_map"]
    for name, file in mapped.items():
        found = tensors.get(name)
        if found is None:
            raise _disagree(path, f"no shard has its {name[:100]!r}")
        if Path(found.file).name != file:
            raise _disagree(path, f"{name[:100]!r} is in {found.file}, not in {file!r:.100}")
    lacking = next((name for name in tensors if name not in mapped), None)
    if lacking is not None:
        raise _disagree(path, f"it lacks {lacking[:100]!r} of {tensors[lacking].file}")


def needed(count: int) -> IntegrityError:
    """Returns the error that ``count`` files of one component have no index."""
    return IntegrityError(
        "{count} files of weights have no index that says what is where",
        hint="fetch the rest: zhcache prefetch",
        count=count,
    )


def written(index: Mapping[str, Any], weight_map: Mapping[str, str], total_size: int) -> str:
    """Returns an index's text, as the libraries write it.

    Args:
        index: The source's; what else it says is kept.
        weight_map: The file of each tensor that was written.
        total_size: Bytes of all of them.
    """
    metadata = {**index.get("metadata", {}), "total_size": total_size}
    table = {**index, "metadata": metadata, "weight_map": dict(weight_map)}
    return json.dumps(table, indent=2, sort_keys=True) + "\n"


def _disagree(path: str, reason: str) -> IntegrityError:
    return IntegrityError(
        "the shards and their index {file} do not agree: {reason}",
        hint="`zhcache verify REPO` checks them, `zhcache repair` fetches them again; where they"
        " find nothing they were published so: take another revision",
        file=path,
        reason=reason,
    )
