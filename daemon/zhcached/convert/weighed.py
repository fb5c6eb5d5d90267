"""What a held pipeline's weights take, read from the headers of its files in the store.

For who plans where it goes and may not be able to open the files. Blocking; reads heads of files
and small configurations, never weights.
"""

from __future__ import annotations

import json
import os
from typing import Any

from zhcache.errors import IntegrityError, NotFound
from zhcache.placement.activation import known
from zhcache.placement.sizes import Part, Tensor, by_variant, needed_variant, part, picked
from zhcache.protocol.placement import WeightsList, WeightsPart
from zhcached.convert import single_header
from zhcached.convert.weights import base
from zhcached.errors import StoreDamaged
from zhcached.residency.arena.contents import INDEX, classes
from zhcached.store.meant import meant, told
from zhcached.store.snapshots import Manifest, ManifestFile
from zhcached.store.store import Store

MAX_CONFIG = 2**20
"""Bytes of a component's configuration; real ones have a few KiB."""


def weighed(store: Store, repo: str, revision: str | None, variant: str | None) -> WeightsList:
    """Returns the components of a pipeline and what their weights take.

    Raises:
        NotFound: It is not in the store, or went while it was read.
        UsageError: It is no pipeline.
        IntegrityError: Its index or a header was published malformed.
        StoreDamaged: A file of it cannot be read.
    """
    manifest = meant(store, repo, revision, variant)
    kinds = classes(store, manifest)
    folders: dict[str, dict[str, ManifestFile]] = {name: {} for name in kinds}
    for file in manifest.files:
        top, slash, rest = file.path.partition("/")
        if slash and top in folders and "/" not in rest:
            folders[top][rest] = file
    named = {name: by_variant(files) for name, files in folders.items()}
    needed = needed_variant([files for files in named.values() if files])
    commit, made = told(manifest)
    parts: dict[str, WeightsPart] = {}
    for name, (library, kind) in kinds.items():
        config = _config(store, folders[name].get("config.json"))
        files = [folders[name][one] for one in picked(named[name], needed)] if named[name] else []
        held = _part(store, manifest, files, is_quantized="quantization_config" in config)
        parts[name] = WeightsPart(
            library=library,
            class_name=kind,
            bytes=held.bytes,
            largest=held.largest,
            block=held.block,
            dtype=held.dtype or "",
            config=known(config),
        )
    return WeightsList(
        repo=manifest.repo,
        commit=commit,
        variant=made,
        parts=parts,
        pipeline=_pipeline(store, manifest),
    )


def _part(
    store: Store, manifest: Manifest, files: list[ManifestFile], *, is_quantized: bool
) -> Part:
    tensors: list[Tensor] = []
    for file in files:
        try:
            fd = store.blobs.open(file.sha256)
        except FileNotFoundError as error:
            raise NotFound(
                "{path} of {repo} is not in the store any more",
                hint="run `zhcache prefetch {repo}`",
                path=base(file.path),
                repo=manifest.repo,
            ) from error
        except OSError as error:
            raise StoreDamaged(reason=f"{file.path} of {manifest.repo}: {error}") from error
        try:
            found = single_header.read(fd, file.path)
        except IntegrityError as error:
            # Its own next step is for who takes a file in; this one is held.
            raise IntegrityError(
                error.template,
                hint="it was published so and the store is sound: take another revision",
                **error.values,
            ) from error
        finally:
            os.close(fd)
        tensors += [Tensor(name, one.dtype, one.bytes) for name, one in found.items()]
    return part(tensors, is_quantized=is_quantized)


def _pipeline(store: Store, manifest: Manifest) -> str:
    index = next((file for file in manifest.files if file.path == INDEX), None)
    name = _config(store, index).get("_class_name")
    return name if isinstance(name, str) else ""


def _config(store: Store, file: ManifestFile | None) -> dict[str, Any]:
    if file is None or file.size > MAX_CONFIG:
        return {}
    try:
        found = json.loads(store.blobs.path(file.sha256).read_bytes())
    except (OSError, ValueError, RecursionError):
        # As loading reads it: what says nothing that can be read is reckoned with defaults.
        return {}
    return found if isinstance(found, dict) else {}
