"""Which components of a held snapshot have weights, and by what they are known.

Reads the manifest and ``model_index.json`` and nothing else: what a component's tensors are is for
the worker that loads it. Two components of equal name, class and files are one, whatever repository
they came with: finetunes share their text encoder and VAE.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from zhcache.errors import IntegrityError, NotFound, UsageError
from zhcache.protocol.names import RepoId, RepoPath
from zhcached.errors import StoreDamaged
from zhcached.sources.pipeline_files import read_by_from_pretrained
from zhcached.store.snapshots import Manifest, ManifestFile
from zhcached.store.store import Store

INDEX = "model_index.json"
MAX_INDEX = 2**20
"""Bytes of ``model_index.json``; real ones have a few hundred."""

_WEIGHTS = ".safetensors"
# Names and buffers of a module differ between versions of these, so arenas do too.
_LIBRARIES = ("diffusers", "transformers", "torch", "torchao", "sdnq")


@dataclass(frozen=True, slots=True)
class Component:
    """One component with weights. ``bytes`` is what its files have, an estimate of its memory."""

    name: str
    digest: str
    bytes: int


def contents(store: Store, repo: RepoId, commit: str) -> list[Component]:
    """Returns the components of a snapshot that have weights, in the order of the index.

    Raises:
        NotFound: The snapshot is not here.
        UsageError: It is no pipeline of diffusers.
        IntegrityError: Its index was published malformed.
        StoreDamaged: Manifest or index cannot be read from the store, or are not what it took in.
    """
    try:
        manifest = store.manifests.read(repo, commit)
    except FileNotFoundError:
        raise NotFound("{repo} at {commit} is not in the store", repo=repo, commit=commit) from None
    named = classes(store, manifest)
    by_folder: dict[str, list[ManifestFile]] = {name: [] for name in named}
    for file in manifest.files:
        folder = file.path.partition("/")[0]
        if folder in by_folder and file.path != folder:
            by_folder[folder].append(file)
    read = read_by_from_pretrained(
        [RepoPath(file.path) for file in manifest.files], components=list(named)
    )
    return [
        Component(name, _digest(name, named[name], files, _choice(manifest, files, read)), size)
        for name, files in by_folder.items()
        if (size := sum(f.size for f in files if f.path in read and f.path.endswith(_WEIGHTS)))
    ]


def classes(store: Store, manifest: Manifest) -> dict[str, tuple[str, str]]:
    """Returns the library and class of each component that the snapshot's index names.

    Raises:
        UsageError: It is no pipeline of diffusers.
        IntegrityError: Its index was published malformed.
        StoreDamaged: The index is not what was taken in.
    """
    file = next((file for file in manifest.files if file.path == INDEX), None)
    if file is None:
        raise UsageError(
            "{repo} is no pipeline: it has no {index}",
            hint="zhcache path gives its folder, for the library that reads it",
            repo=manifest.repo,
            index=INDEX,
        )
    if file.size > MAX_INDEX:
        raise _malformed(manifest, f"{file.size} bytes")
    try:
        data = store.layout.blob(file.sha256).read_bytes()
    except OSError as error:
        raise StoreDamaged(reason=f"{INDEX} of {manifest.repo}: {error}") from error
    try:
        entries = msgspec.json.decode(data, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        # Whose fault it is: no repair mends what was published so.
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise StoreDamaged(reason=f"{INDEX} of {manifest.repo}: {error}") from error
        raise _malformed(manifest, str(error)) from error
    return {
        name: (value[0], value[1])
        for name, value in entries.items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)
    }


def _malformed(manifest: Manifest, reason: str) -> IntegrityError:
    return IntegrityError(
        "the model_index.json of {where} cannot be read: {reason}",
        hint="it was published so and the store is sound: take another revision",
        where=manifest.repo,
        reason=reason,
    )


def _choice(manifest: Manifest, files: list[ManifestFile], read: Container[str]) -> tuple[str, ...]:
    """Returns what decides which of a component's precisions is loaded; nothing if it has one.

    A pipeline is loaded in one precision as far as its components have it, so that of a component
    with several the others decide.
    """
    if all(file.path in read for file in files if file.path.endswith(_WEIGHTS)):
        return ()
    return tuple(sorted(file.path for file in manifest.files if file.path.endswith(_WEIGHTS)))


def _digest(
    name: str, kind: tuple[str, str], files: list[ManifestFile], choice: tuple[str, ...]
) -> str:
    digest = hashlib.sha256(b"zhcache-component-2\n")
    digest.update("\0".join((name, *kind, *_versions())).encode() + b"\n")
    for file in sorted(files, key=lambda one: one.path):
        digest.update(f"{file.path.partition('/')[2]}\0{file.size}\0{file.sha256}\n".encode())
    digest.update("\0".join(choice).encode())
    return digest.hexdigest()


@cache
def _versions() -> tuple[str, ...]:
    """The libraries that a worker will load with: it runs in this environment."""
    found: list[str] = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} none")
    return tuple(found)
