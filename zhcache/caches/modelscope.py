"""ModelScope's caches: ``models/O--N/snapshots/BRANCH``, and ``models/O/N`` or ``O/N`` before.

In the older one ``___`` stands for a dot. Its own records there are pickles, and are not opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zhcache.caches.found import Found, collect, folders, is_revision
from zhcache.errors import UsageError
from zhcache.protocol.names import RepoId, parse_repo

LEGACY_MARKS = (".msc", ".mdl", "configuration.json")
"""Of these ModelScope's client leaves at least one in a model's folder."""


def repo_of(name: str) -> RepoId | None:
    """Returns the repository that a folder ``O--N`` of ModelScope's cache is for, if it is one."""
    repo = _repo(name.replace("--", "/", 1))
    return repo if repo is not None and repo.owner else None


def legacy_repo_of(owner: str, name: str) -> RepoId | None:
    """Returns the repository that ``O/N`` of ModelScope's older cache is for, if it is one."""
    return _repo(f"{owner}/{name.replace('___', '.')}")


def find(folder: Path) -> Iterator[Found]:
    """Yields the snapshots of a cache, or of one repository's folder in it."""
    if (folder / "snapshots").is_dir():
        yield from _snapshots(folder)
        return
    for root in _roots(folder):
        for entry in folders(root):
            if (entry / "snapshots").is_dir():
                yield from _snapshots(entry)
            elif entry.name not in ("models", "hub"):
                yield from _legacy(entry)


def held(folder: Path, repo: RepoId) -> list[Found]:
    """Returns the snapshots of one repository in a cache."""
    found: list[Found] = []
    for root in _roots(folder):
        place = root / f"{repo.owner}--{repo.name}"
        if (place / "snapshots").is_dir():
            found += _snapshots(place)
        if repo.owner:
            found += [one for one in _legacy(root / repo.owner) if one.repo == repo]
    return found


def _roots(folder: Path) -> tuple[Path, ...]:
    return folder / "models", folder / "hub" / "models", folder / "hub", folder


def _snapshots(folder: Path) -> Iterator[Found]:
    repo = repo_of(folder.name)
    if repo is None:
        return
    for branch in folders(folder / "snapshots"):
        if is_revision(branch.name):
            found = Found(repo, revision=branch.name)
            collect(found, branch)
            yield found


def _legacy(owner: Path) -> Iterator[Found]:
    for folder in folders(owner):
        repo = legacy_repo_of(owner.name, folder.name)
        if repo is not None and _looks_like_model(folder):
            found = Found(repo, revision="master")
            collect(found, folder)
            yield found


def _looks_like_model(folder: Path) -> bool:
    # Only what ModelScope's own client leaves: a config.json would make a component of a plain
    # pipeline folder a repository.
    return any((folder / name).exists() for name in LEGACY_MARKS)


def _repo(text: str) -> RepoId | None:
    try:
        return parse_repo(text)
    except UsageError:
        return None
