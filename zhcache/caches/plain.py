"""A plain folder that is one model."""

from __future__ import annotations

from pathlib import Path

from zhcache.caches.found import Found, collect
from zhcache.protocol.names import RepoId, is_commit, parse_revision


def model(folder: Path, repo: RepoId, revision: str | None = None) -> Found:
    """Returns a folder as the snapshot of ``repo`` that it is said to be.

    Raises:
        UsageError: No revision can be called so.
    """
    if revision is not None:
        parse_revision(revision)
    found = Found(repo, commit=_local_dir_commit(folder), revision=revision)
    collect(found, folder)
    return found


def held(folder: Path, repo: RepoId) -> list[Found]:
    """Returns ``OWNER/NAME`` in ``folder``, if it looks like a model."""
    place = folder / repo.owner / repo.name
    is_model = any((place / name).is_file() for name in ("model_index.json", "config.json"))
    return [model(place, repo)] if is_model else []


def _local_dir_commit(folder: Path) -> str | None:
    """Returns the commit that ``hf download --local-dir`` noted, if all files agree on it."""
    notes = folder / ".cache" / "huggingface" / "download"
    commits = {
        file.read_text("utf-8", "replace").partition("\n")[0].strip()
        for file in notes.rglob("*.metadata")
        if file.is_file()
    }
    commit = commits.pop() if len(commits) == 1 else ""
    return commit if is_commit(commit) else None
