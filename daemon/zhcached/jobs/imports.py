"""Import: files a user already has become a snapshot.

Their bytes are hashed as they enter the store, whatever their folder calls them. The same rule on
pickles holds as for downloads: a file's way in does not make it safer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

from zhcache.protocol.messages import ImportRequest, PrefetchResult
from zhcache.protocol.names import RepoPath, parse_path, parse_repo
from zhcached.jobs import state
from zhcached.jobs.arrivals import Arrivals
from zhcached.jobs.queue import Control
from zhcached.sources.base import RemoteFile
from zhcached.sources.selection import select
from zhcached.store.snapshots import Manifest, ManifestFile
from zhcached.store.store import Store

SOURCE = "import"
DEFAULT_REF = "main"


def take_in(
    store: Store, request: ImportRequest, arrivals: Arrivals, record: state.Record, control: Control
) -> state.Done:
    """Takes the files of ``request`` into the store and publishes them.

    Raises:
        UnsafeWeights: Weights exist only as pickle.
        UsageError: A descriptor is missing or is no plain file.
        NoSpace: The store has no room.
    """
    started = time.monotonic()
    listing = [RemoteFile(path=parse_path(f.path), size=f.size) for f in request.files]
    selection = select(listing)
    wanted = {file.path for file in selection.taken}
    total = sum(file.size for file in selection.taken)
    kept: list[ManifestFile] = []
    done = 0
    try:
        for file, descriptor in zip(request.files, arrivals.take(len(request.files)), strict=True):
            control.check()
            path = RepoPath(file.path)
            if path not in wanted:
                continue
            committed = store.intake.adopt(
                descriptor, None, link_ok=request.link, owner_job=record.id
            )
            done += committed.size
            kept.append(
                ManifestFile(
                    path=path, size=committed.size, sha256=committed.sha256, trust="first-use"
                )
            )
            control.progress = state.Progress(bytes_done=done, bytes_total=total)
        commit = request.commit or derived_commit(kept)
        manifest = Manifest(
            repo=request.repo,
            commit=commit,
            created=record.created,
            source=SOURCE,
            trust="first-use",
            uid=record.uid,
            files=tuple(kept),
            complete=True,
            left_out=selection.left_out,
        )
        ref = request.revision or (None if request.commit else DEFAULT_REF)
        folder = store.publish(manifest, ref)
    finally:
        store.leases.release_holds(record.id)
    size = sum(file.size for file in kept)
    return state.Done(
        result=PrefetchResult(
            repo=str(parse_repo(request.repo)),
            revision=ref or commit,
            commit=commit,
            path=str(folder),
            files=len(kept),
            bytes=size,
            bytes_fetched=0,
            bytes_reused=size,
            seconds=round(time.monotonic() - started, 3),
            sources={},
            trust="first-use",
            left_out=selection.left_out,
        )
    )


def derived_commit(files: Iterable[ManifestFile]) -> str:
    """Returns 40 hex digits that name exactly this set of files, for folders without a commit."""
    digest = hashlib.sha256(b"zhcache-import-1\n")
    for file in sorted(files, key=lambda one: one.path):
        digest.update(f"{file.path}\0{file.size}\0{file.sha256}\n".encode())
    return digest.hexdigest()[:40]
