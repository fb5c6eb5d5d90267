"""Import: files a user already has become a snapshot.

Their bytes are hashed as they enter the store, whatever their folder calls them. The same rule on
pickles holds as for downloads: a file's way in does not make it safer. A client hands the files
over by descriptor; of a watched folder the daemon opens them itself.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator

import msgspec

from zhcache.errors import IntegrityError, NotFound, NotPermitted, UnsafeWeights
from zhcache.protocol.messages import (
    DiskUse,
    ImportFile,
    ImportRequest,
    LockedRepo,
    PrefetchResult,
)
from zhcache.protocol.names import RepoId, RepoPath, parse_path, parse_repo
from zhcached.convert import single_header
from zhcached.errors import DigestMismatch, StoreDamaged
from zhcached.jobs import state
from zhcached.jobs.control import Control
from zhcached.jobs.importing.arrivals import Incoming
from zhcached.sources.base import RemoteFile
from zhcached.sources.selection import Selection, select
from zhcached.store.digest import Committed, Promise, hash_file
from zhcached.store.snapshots import IMPORTED, Manifest, ManifestFile, content
from zhcached.store.store import Store

DEFAULT_REF = "main"


def take_in(store: Store, incoming: Incoming, record: state.Record, control: Control) -> state.Done:
    """Takes what a client hands over, or a watched folder holds, into the store and publishes it.

    Raises:
        NotPermitted: The ref it would move is a hub's or another user's.
        IntegrityError: A file is not what the lock says that comes with it, or its own name in a
            cache; or weights are cut short. Nothing is published.
        UnsafeWeights: Weights exist only as pickle.
        UsageError: A descriptor is missing or is no plain file.
        NoSpace: The store has no room.
    """
    started = time.monotonic()
    request = incoming.request
    repo = parse_repo(request.repo)
    ref = request.revision or (None if request.commit else DEFAULT_REF)
    if ref is not None and not incoming.folder:
        _check_ref(store, repo, ref, record.uid)
    listing = [RemoteFile(path=parse_path(f.path), size=f.size) for f in request.files]
    selection = _select(listing, repo)
    kept: list[ManifestFile] = []
    disk = DiskUse(found=0, here=0, added=0, shared=0)
    try:
        for path, came, is_new in _brought(store, incoming, record, control, selection):
            if request.lock is not None:
                _check_locked(request.lock, path, came)
            kept.append(
                ManifestFile(path=path, size=came.size, sha256=came.sha256, trust="first-use")
            )
            disk.found += came.size
            disk.here += 0 if is_new else came.size
            disk.added += came.size if is_new else 0
            disk.shared += came.size if is_new and came.is_shared else 0
        manifest = _manifest(store, incoming, record, kept, selection)
        if ref is not None and incoming.folder and not may_follow(store, repo, ref, record.uid):
            ref = None
        folder = store.publish(manifest, ref)
    finally:
        store.leases.release_holds(record.id)
    return state.Done(
        result=PrefetchResult(
            repo=str(repo),
            revision=ref or manifest.commit,
            commit=manifest.commit,
            path=str(folder),
            files=len(kept),
            bytes=disk.found,
            bytes_fetched=0,
            bytes_reused=disk.found,
            seconds=round(time.monotonic() - started, 3),
            sources={},
            trust=manifest.trust,
            left_out=selection.left_out,
            disk=disk,
        )
    )


def _select(listing: list[RemoteFile], repo: RepoId) -> Selection:
    try:
        return select(listing)
    except UnsafeWeights as error:
        raise UnsafeWeights(
            error.template,
            hint="if a hub has the model, `zhcache prefetch {repo} --allow-pickle` converts it in a"
            " sandbox; else load it where you trust it: save_pretrained() writes safetensors",
            **{**error.values, "repo": repo},
        ) from error


def _brought(
    store: Store,
    incoming: Incoming,
    record: state.Record,
    control: Control,
    selection: Selection,
) -> Iterator[tuple[RepoPath, Committed, bool]]:
    """Yields each file that is wanted once it is in the store, and whether it is new there."""
    request = incoming.request
    wanted = {file.path for file in selection.taken}
    total = sum(file.size for file in selection.taken)
    done = 0

    def count(step: int) -> None:
        nonlocal done
        control.check()
        done += step
        control.progress = state.Progress(bytes_done=min(done, total), bytes_total=total)

    for file, fd in zip(request.files, incoming.take(len(request.files)), strict=True):
        path = RepoPath(file.path)
        if path not in wanted:
            continue
        if path.endswith(".safetensors") and not (file.sha256 or request.lock or incoming.folder):
            # No digest says that these weights are whole; of a watched folder their head was read.
            single_header.read(fd, path)
        here = _find(store, fd, incoming.known(path), record.id, control)
        if here is not None:
            count(here.size)
            _check_named(request, file, here)
            yield path, here, False
            continue
        promise = Promise(os.fstat(fd).st_size, file.sha256) if file.sha256 else None
        try:
            came = store.intake.adopt(
                fd, promise, link_ok=request.link, owner_job=record.id, progress=count
            )
        except DigestMismatch as error:
            raise _misnamed(request, file) from error
        yield path, came, True


def _find(store: Store, fd: int, known: str | None, job: str, control: Control) -> Committed | None:
    """Returns the file's bytes if the store has them, held for the job.

    A file of a size that no blob has is not read. Else reading it is less than copying it beside
    the blob that it turns out to be, for which there might be no room.
    """
    before = os.fstat(fd)
    if known is None:
        rows = store.catalog.rows("SELECT 1 FROM blobs WHERE size=? LIMIT 1", (before.st_size,))
        if not rows:
            return None
        known = hash_file(fd, want_git=False, progress=lambda _: control.check()).sha256
        after = os.fstat(fd)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            return None
    return store.presence.find(Promise(before.st_size, known), job)


def _manifest(
    store: Store,
    incoming: Incoming,
    record: state.Record,
    kept: list[ManifestFile],
    selection: Selection,
) -> Manifest:
    request = incoming.request
    commit = request.commit or derived_commit(kept)
    manifest = Manifest(
        repo=request.repo,
        commit=commit,
        created=record.created,
        source=IMPORTED,
        trust="pinned" if request.lock is not None and request.pinned else "first-use",
        uid=record.uid,
        files=tuple(kept),
        # Of a hub's commit only the hub knows what belongs to it, or who had it from there.
        complete=request.lock.complete if request.lock is not None else request.commit is None,
        left_out=selection.left_out,
    )
    try:
        held = store.manifests.read(parse_repo(request.repo), commit)
    except (FileNotFoundError, StoreDamaged):
        return manifest
    if request.lock is not None or not content(manifest) <= content(held):
        return manifest
    # What a hub brought stays a hub's: a folder that has no more than that adds nothing to it.
    paths = {file.path for file in kept}
    files = tuple(file for file in held.files if file.path in paths)
    return msgspec.structs.replace(held, files=files)


def _check_named(request: ImportRequest, file: ImportFile, came: Committed) -> None:
    if file.sha256 and file.sha256 != came.sha256:
        raise _misnamed(request, file)


def _misnamed(request: ImportRequest, file: ImportFile) -> IntegrityError:
    return IntegrityError(
        "{path} of {repo} is damaged: its cache has it as sha256 {sha256}, and it is not that",
        hint="nothing of the model was taken in; delete that file and download it again",
        path=file.path,
        repo=request.repo,
        sha256=file.sha256,
    )


def _check_locked(lock: LockedRepo, path: RepoPath, came: Committed) -> None:
    """Checks one file against the lock that came with it."""
    for file in lock.files:
        if file.path == path and (file.size, file.sha256) == (came.size, came.sha256):
            return
    raise IntegrityError(
        "{path} of {repo} is not what its lock says: it was altered, or the disk is bad",
        hint="nothing of the model was taken in; make the disk again with `zhcache export --disk`",
        path=path,
        repo=lock.repo,
    )


def _check_ref(store: Store, repo: RepoId, ref: str, uid: int) -> None:
    """Checks that an import may say what ``ref`` means to everybody here."""
    if uid in (0, os.geteuid()) or may_follow(store, repo, ref, uid):
        return
    raise NotPermitted(
        "{repo} at {ref} is here already, and not by an import of yours",
        hint="import it under another --revision or --repo",
        repo=repo,
        ref=ref,
    )


def may_follow(store: Store, repo: RepoId, ref: str, uid: int) -> bool:
    """Tells whether ``ref`` is free, or means what an import of this user brought."""
    try:
        held = store.resolve(repo, ref)
    except (NotFound, IntegrityError):
        return True
    return held.source == IMPORTED and held.uid == uid


def derived_commit(files: Iterable[ManifestFile]) -> str:
    """Returns 40 hex digits that name exactly this set of files, for folders without a commit."""
    digest = hashlib.sha256(b"zhcache-import-1\n")
    for file in sorted(files, key=lambda one: one.path):
        digest.update(f"{file.path}\0{file.size}\0{file.sha256}\n".encode())
    return digest.hexdigest()[:40]
