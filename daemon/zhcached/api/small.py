"""``op: files`` on the handover socket: what is small of a leased snapshot, open for reading.

For a caller who may speak to the daemon and not open the store's files. What is in the store is
for everybody who reaches the socket; the lease says which snapshot is meant and whose it is. Files
of weights are never handed over here: who wants their tensors attaches, and shares them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence

import structlog

from zhcache.errors import NotFound, NotPermitted
from zhcache.i18n import mark
from zhcache.protocol import frames
from zhcache.protocol.names import RepoPath, parse_repo
from zhcache.protocol.residency import (
    MAX_SMALL_BYTES,
    MAX_SMALL_FILE,
    MAX_SMALL_FILES,
    FilesRequest,
    SmallFile,
    SmallFiles,
)
from zhcached.api.attach import SEND_TIMEOUT_S, owned
from zhcached.api.peer import Peer
from zhcached.api.services import Services
from zhcached.errors import StoreDamaged
from zhcached.residency.arena.contents import INDEX, MAX_INDEX
from zhcached.sources.pipeline_files import components_of, is_heavy, read_by_from_pretrained
from zhcached.store.snapshots import Manifest, ManifestFile
from zhcached.store.store import Store

_OTHERWISE = mark(
    "ask the administrator to add you to the group that may read the store, or use mode='resident'"
)

log = structlog.get_logger()


def serve(channel: socket.socket, request: FilesRequest, peer: Peer, services: Services) -> None:
    """Answers with the files; returns when they are sent.

    Raises:
        NotFound: No such lease, or it ended meanwhile.
        NotPermitted: Another user's lease; or more, or larger, files than are handed over.
        StoreDamaged: A file is not in the store.
        OSError: The client went away.
    """
    store = services.store
    leased = owned(store, request.lease, peer)
    channel.settimeout(SEND_TIMEOUT_S)
    try:
        manifest = store.manifests.read(parse_repo(leased.repo), leased.commit)
        components = _components(store, manifest)
        chosen = small(manifest, components)
        check_bounds(manifest.repo, chosen)
        heavy = weights(manifest, components)
        batches = list(_batches(chosen))
        for number, batch in enumerate(batches, start=1):
            is_last = number == len(batches)
            _send(channel, store, batch, heavy if is_last else [], is_last=is_last)
    except FileNotFoundError as error:
        if store.leases.find(request.lease) is None:
            raise NotFound("the lease ended meanwhile", hint="load the pipeline again") from error
        raise StoreDamaged(reason=f"{leased.repo}: {error}") from error
    log.info("files.handed_over", repo=leased.repo, uid=peer.uid, files=len(chosen))


def small(manifest: Manifest, components: frozenset[str]) -> list[ManifestFile]:
    """Returns the files that loading the pipeline reads and that hold no weights."""
    read = read_by_from_pretrained(
        [RepoPath(file.path) for file in manifest.files], components=components
    )
    return [
        file
        for file in _inside(manifest, components)
        if file.path in read and not is_heavy(file.path)
    ]


def weights(manifest: Manifest, components: frozenset[str]) -> list[str]:
    """Returns the paths of the components' files that hold weights."""
    return [file.path for file in _inside(manifest, components) if is_heavy(file.path)]


def check_bounds(repo: str, files: Sequence[ManifestFile]) -> None:
    """Checks that so much may be handed over.

    Raises:
        NotPermitted: It may not; the first limit that is passed is named.
    """
    if large := next((file for file in files if file.size > MAX_SMALL_FILE), None):
        raise NotPermitted(
            "{path} of {repo} has {size} bytes, and files up to {limit} are handed over",
            hint=_OTHERWISE,
            path=large.path,
            repo=repo,
            size=large.size,
            limit=MAX_SMALL_FILE,
        )
    total = sum(file.size for file in files)
    if len(files) > MAX_SMALL_FILES or total > MAX_SMALL_BYTES:
        raise NotPermitted(
            "{repo} has {count} files of {size} bytes besides its weights, and up to {most} of"
            " {limit} are handed over",
            hint=_OTHERWISE,
            repo=repo,
            count=len(files),
            size=total,
            most=MAX_SMALL_FILES,
            limit=MAX_SMALL_BYTES,
        )


def _components(store: Store, manifest: Manifest) -> frozenset[str]:
    """Returns the components that the index names; none where it is missing or cannot be read."""
    index = next((file for file in manifest.files if file.path == INDEX), None)
    if index is None or index.size > MAX_INDEX:
        return frozenset()
    return components_of(store.blobs.path(index.sha256).read_bytes()) or frozenset()


def _inside(manifest: Manifest, components: frozenset[str]) -> Iterator[ManifestFile]:
    for file in manifest.files:
        top, slash, _ = file.path.partition("/")
        if not slash or top in components:
            yield file


def _batches(files: Sequence[ManifestFile]) -> Iterator[Sequence[ManifestFile]]:
    # One at least: the last frame says what else there is.
    for start in range(0, max(len(files), 1), frames.MAX_FDS):
        yield files[start : start + frames.MAX_FDS]


def _send(
    channel: socket.socket,
    store: Store,
    batch: Sequence[ManifestFile],
    heavy: list[str],
    *,
    is_last: bool,
) -> None:
    fds: list[int] = []
    try:
        for file in batch:
            fds.append(store.blobs.open(file.sha256))
            if os.fstat(fds[-1]).st_size != file.size:
                raise StoreDamaged(reason=f"{file.path} has not its size")
        told = [SmallFile(path=file.path, size=file.size) for file in batch]
        frames.send(channel, SmallFiles(files=told, weights=heavy, is_last=is_last), fds)
    finally:
        frames.close_all(fds)
