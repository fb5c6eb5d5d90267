"""huggingface_hub's cache: ``models--O--N/{refs,snapshots,blobs}``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from zhcache.caches.found import Found, collect, folders, is_revision
from zhcache.errors import UsageError
from zhcache.protocol.names import RepoId, is_commit


def find(folder: Path) -> Iterator[Found]:
    """Yields the snapshots of a cache, or of one repository's folder in it."""
    for root in (folder, folder / "hub"):
        if _is_repo(root):
            yield from _snapshots(root)
            return
        repos = [entry for entry in folders(root) if _is_repo(entry)]
        for entry in repos:
            yield from _snapshots(entry)
        if repos:
            return


def held(folder: Path, repo: RepoId) -> list[Found]:
    """Returns the snapshots of one repository in a cache."""
    places = [root / repo.folder for root in (folder, folder / "hub")]
    return [one for place in places if _is_repo(place) for one in _snapshots(place)]


def _is_repo(folder: Path) -> bool:
    return folder.name.startswith("models--") and (folder / "snapshots").is_dir()


def _snapshots(folder: Path) -> Iterator[Found]:
    try:
        repo = RepoId.from_folder(folder.name)
    except UsageError:
        return
    refs = _refs(folder / "refs")
    blobs = ((folder / "blobs").resolve(), (folder.parent / "blobs").resolve())
    for snapshot in folders(folder / "snapshots"):
        if not is_commit(snapshot.name):
            continue
        found = Found(repo, commit=snapshot.name, revision=refs.get(snapshot.name))
        collect(found, snapshot)
        found.is_linkable = all(
            any(real.is_relative_to(place) for place in blobs) for _, real, _ in found.files
        )
        found.etags = _etags(found, snapshot)
        yield found


def _etags(found: Found, snapshot: Path) -> dict[str, str]:
    """Returns the names of the blobs that the snapshot's links lead to.

    The first link alone tells: what is shared between repositories is linked on, under a name that
    is no digest of the bytes.
    """
    etags: dict[str, str] = {}
    for path, _, _ in found.files:
        with contextlib.suppress(OSError):
            target = (snapshot / path).readlink()
            if target.parent.name == "blobs":
                etags[path] = target.name
    return etags


def _refs(folder: Path) -> dict[str, str]:
    """Returns for each commit the name that points at it; ``main`` before any other."""
    named: dict[str, str] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if not file.is_file() or not is_revision(name):
            continue
        commit = file.read_text("ascii", "replace").strip()
        if name == "main" or commit not in named:
            named[commit] = name
    return named
