"""A disk for machines without a line: models as plain folders, and a lock that verifies them there.

``models/OWNER/NAME/COMMIT/`` is what ``from_pretrained`` reads, on any file system. A file gets its
name once its bytes were hashed on their way, a model its line in ``zhcache-lock.json`` once all its
files are on the disk: what was broken off goes on where it was. ``SHA256SUMS`` is for
``sha256sum -c`` on machines that have nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from zhcache.errors import IntegrityError, NoSpace, UsageError
from zhcache.export import Exported, check_outside, damaged, explained, sync
from zhcache.i18n import mark
from zhcache.protocol.messages import LockedFile, LockedRepo, LockFile, SnapshotDetail
from zhcache.protocol.names import check_listing, is_commit, is_sha256, parse_path, parse_repo

LOCK = "zhcache-lock.json"
SUMS = "SHA256SUMS"
MODELS = "models"
_STEP = 2**20
_BAD_LOCK = mark("make the disk again with `zhcache export --disk`")
_MAX_LOCK = 64 * 2**20


def write(
    snapshot: Path,
    held: SnapshotDetail,
    disk: Path,
    *,
    revision: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Exported:
    """Brings a snapshot onto a disk; what is there already and right is kept.

    Args:
        snapshot: Its folder in the store, which a lease keeps.
        held: What it consists of.
        disk: The disk's folder, made if it is not there.
        revision: The branch or tag it is to have where it is taken in; None for what it has here.
        progress: Called with the bytes of each step.

    Raises:
        IntegrityError: A file of the store is damaged; it is not on the disk under its name.
        NoSpace: The disk has no room; told before anything is written.
        NotPermitted: The disk is closed to the caller.
        UsageError: The folder's lock is none, or in the store; or the disk takes no files of that
            size.
    """
    check_outside(snapshot, disk)
    folder = folder_of(disk, held.repo, held.commit)
    done = Exported(folder, commit=held.commit)
    try:
        disk.mkdir(parents=True, exist_ok=True)
        before = read_lock(disk)
        _check_room(disk, folder, held)
        for file in held.files:
            goal = folder / parse_path(file.path)
            source = snapshot / file.path
            if not _is_there(goal, file.size, file.sha256, progress):
                _copy(
                    source,
                    goal,
                    LockedFile(path=file.path, size=file.size, sha256=file.sha256),
                    progress,
                )
            done.files += 1
            done.bytes += file.size
        entry = LockedRepo(
            repo=held.repo,
            revision=revision or next(iter(held.revisions), held.commit),
            commit=held.commit,
            files=[LockedFile(path=f.path, size=f.size, sha256=f.sha256) for f in held.files],
            complete=held.complete,
        )
        _record(disk, before, entry)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise UsageError(
                "{disk} takes no files as large as those of {repo}",
                hint="FAT ends at 4 GiB: use a disk with exFAT or ext4",
                disk=disk,
                repo=held.repo,
            ) from error
        raise explained(error, disk) from error
    return done


def folder_of(disk: Path, repo: str, commit: str) -> Path:
    """Returns where a snapshot lies on a disk."""
    parsed = parse_repo(repo)
    return disk / MODELS / (parsed.owner or "_") / parsed.name / commit


def read_lock(disk: Path) -> list[LockedRepo]:
    """Returns what a disk says it holds, every name in it checked; nothing if it has no lock.

    Raises:
        UsageError: The lock is none.
        IntegrityError: A path in it cannot be kept.
    """
    path = disk / LOCK
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_LOCK)
    except FileNotFoundError:
        return []
    try:
        repos = msgspec.json.decode(text, type=LockFile).repos
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(
            "{file} is not a lock file: {reason}", hint=_BAD_LOCK, file=path, reason=error
        ) from error
    for locked in repos:
        parse_repo(locked.repo)
        check_listing([parse_path(file.path) for file in locked.files])
        if not is_commit(locked.commit) or not all(is_sha256(f.sha256) for f in locked.files):
            raise UsageError(
                "{file} is not a lock file: {reason}",
                hint=_BAD_LOCK,
                file=path,
                reason=f"{locked.repo}: no digest",
            )
    return repos


def _check_room(disk: Path, folder: Path, held: SnapshotDetail) -> None:
    there = 0
    for file in held.files:
        with contextlib.suppress(OSError):
            there += file.size if (folder / file.path).stat().st_size == file.size else 0
    needed, free = held.bytes - there, shutil.disk_usage(disk).free
    if needed > free:
        raise NoSpace(
            "{disk} has {free} bytes free and {repo} needs {needed} more",
            hint="nothing was written; what is on the disk stays as it is",
            disk=disk,
            free=free,
            repo=held.repo,
            needed=needed,
        )


def _is_there(goal: Path, size: int, sha256: str, progress: Callable[[int], None]) -> bool:
    """Tells whether the disk has the file; what a bad disk made of one is written anew."""
    try:
        if goal.is_symlink() or goal.stat().st_size != size:
            return False
        with goal.open("rb") as file:
            digest = hashlib.sha256()
            for chunk in _chunks(file.fileno()):
                digest.update(chunk)
                progress(len(chunk))
    except FileNotFoundError:
        return False
    return digest.hexdigest() == sha256


def _copy(source: Path, goal: Path, file: LockedFile, progress: Callable[[int], None]) -> None:
    goal.parent.mkdir(parents=True, exist_ok=True)
    unfinished = goal.with_name(f".{goal.name[:200]}.part")
    digest, size = hashlib.sha256(), 0
    try:
        reading = os.open(source, os.O_RDONLY)
    except FileNotFoundError:
        raise damaged(file.path) from None
    try:
        with unfinished.open("wb") as sink:
            for chunk in _chunks(reading):
                digest.update(chunk)
                sink.write(chunk)
                size += len(chunk)
                progress(len(chunk))
            sink.flush()
            os.fsync(sink.fileno())
        is_right = (size, digest.hexdigest()) == (file.size, file.sha256)
        if is_right:
            unfinished.replace(goal)
    finally:
        unfinished.unlink(missing_ok=True)
        os.close(reading)
    if not is_right:
        raise damaged(file.path)
    sync(goal.parent)


def _chunks(fd: int) -> Iterator[bytes]:
    while chunk := os.read(fd, _STEP):
        yield chunk


def _record(disk: Path, before: list[LockedRepo], entry: LockedRepo) -> None:
    others = [one for one in before if (one.repo, one.commit) != (entry.repo, entry.commit)]
    # A branch means one commit: what had its name before keeps its files, under its commit.
    for one in others:
        if one.repo == entry.repo and one.revision == entry.revision:
            one.revision = one.commit
    repos = sorted([*others, entry], key=lambda one: (one.repo, one.commit))
    sums = [
        f"{file.sha256}  {(folder_of(disk, one.repo, one.commit) / file.path).relative_to(disk)}\n"
        for one in repos
        for file in one.files
    ]
    _replace(disk / SUMS, "".join(sums).encode())
    lock = msgspec.json.encode(LockFile(repos=repos))
    _replace(disk / LOCK, msgspec.json.format(lock, indent=2) + b"\n")


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.part")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync(path.parent)


def missing(disk: Path, locked: LockedRepo) -> IntegrityError | None:
    """Returns what to say if a file that the lock names is not on the disk, or has another size."""
    folder = folder_of(disk, locked.repo, locked.commit)
    for file in locked.files:
        path = folder / file.path
        if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            return IntegrityError(
                "{path} of {repo} is not on the disk as its lock says",
                hint="export the model to the disk again; nothing of it was taken in",
                path=file.path,
                repo=locked.repo,
            )
    return None
