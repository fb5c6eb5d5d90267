"""Import: files a user already has become a snapshot.

Their bytes are hashed as they enter the store, whatever their folder calls them. The same rule on
pickles holds as for downloads: a file's way in does not make it safer.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable

from zhcache.errors import IntegrityError, NotFound, NotPermitted
from zhcache.protocol.messages import PrefetchResult
from zhcache.protocol.names import RepoId, RepoPath, parse_path, parse_repo
from zhcached.jobs import state
from zhcached.jobs.arrivals import Arrivals
from zhcached.jobs.queue import Control
from zhcached.sources.base import RemoteFile
from zhcached.sources.selection import select
from zhcached.store.snapshots import IMPORTED, Manifest, ManifestFile
from zhcached.store.store import Store

DEFAULT_REF = "main"


def take_in(store: Store, arrivals: Arrivals, record: state.Record, control: Control) -> state.Done:
    """Takes what a client hands over into the store and publishes it.

    Raises:
        NotPermitted: The ref it would move is a hub's or another user's.
        UnsafeWeights: Weights exist only as pickle.
        UsageError: A descriptor is missing or is no plain file.
        NoSpace: The store has no room.
    """
    started = time.monotonic()
    request = arrivals.request
    repo = parse_repo(request.repo)
    ref = request.revision or (None if request.commit else DEFAULT_REF)
    if ref is not None:
        _check_ref(store, repo, ref, record.uid)
    listing = [RemoteFile(path=parse_path(f.path), size=f.size) for f in request.files]
    selection = select(listing)
    wanted = {file.path for file in selection.taken}
    total = sum(file.size for file in selection.taken)
    kept: list[ManifestFile] = []
    done = 0

    def count(step: int) -> None:
        nonlocal done
        control.check()
        done += step
        control.progress = state.Progress(bytes_done=min(done, total), bytes_total=total)

    try:
        for file, descriptor in zip(request.files, arrivals.take(len(request.files)), strict=True):
            path = RepoPath(file.path)
            if path not in wanted:
                continue
            committed = store.intake.adopt(
                descriptor, None, link_ok=request.link, owner_job=record.id, progress=count
            )
            kept.append(
                ManifestFile(
                    path=path, size=committed.size, sha256=committed.sha256, trust="first-use"
                )
            )
        commit = request.commit or derived_commit(kept)
        manifest = Manifest(
            repo=request.repo,
            commit=commit,
            created=record.created,
            source=IMPORTED,
            trust="first-use",
            uid=record.uid,
            files=tuple(kept),
            # Of a hub's commit only the hub knows what belongs to it.
            complete=request.commit is None,
            left_out=selection.left_out,
        )
        folder = store.publish(manifest, ref)
    finally:
        store.leases.release_holds(record.id)
    size = sum(file.size for file in kept)
    return state.Done(
        result=PrefetchResult(
            repo=str(repo),
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


def _check_ref(store: Store, repo: RepoId, ref: str, uid: int) -> None:
    """Checks that an import may say what ``ref`` means to everybody here."""
    try:
        held = store.resolve(repo, ref)
    except (NotFound, IntegrityError):
        return
    if uid in (0, os.geteuid()) or (held.source == IMPORTED and held.uid == uid):
        return
    raise NotPermitted(
        "{repo} at {ref} is here already, and not by an import of yours",
        hint="import it under another --revision or --repo",
        repo=repo,
        ref=ref,
    )


def derived_commit(files: Iterable[ManifestFile]) -> str:
    """Returns 40 hex digits that name exactly this set of files, for folders without a commit."""
    digest = hashlib.sha256(b"zhcache-import-1\n")
    for file in sorted(files, key=lambda one: one.path):
        digest.update(f"{file.path}\0{file.size}\0{file.sha256}\n".encode())
    return digest.hexdigest()[:40]
