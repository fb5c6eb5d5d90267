"""Disks of ours: folders with a lock that says what each file must be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zhcache import disk
from zhcache.caches.found import Found, branch_of
from zhcache.protocol.names import RepoId, parse_repo


def find(folder: Path) -> Iterator[Found]:
    """Yields what a disk's lock names; with its flaw, what is not there whole.

    Raises:
        UsageError: The lock is none.
        IntegrityError: It has paths that cannot be kept.
    """
    for locked in disk.read_lock(folder):
        repo = parse_repo(locked.repo)
        found = Found(repo, commit=locked.commit, revision=branch_of(locked), lock=locked)
        found.flaw = disk.missing(folder, locked)
        place = disk.folder_of(folder, locked.repo, locked.commit)
        found.files = [(f.path, place / f.path, f.size) for f in locked.files]
        yield found


def held(folder: Path, repo: RepoId) -> list[Found]:
    """Returns what a disk has whole of one repository.

    Raises:
        ZhcacheError: As ``find``.
    """
    return [one for one in find(folder) if one.repo == repo and one.flaw is None]
