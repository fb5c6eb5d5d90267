"""Recognises models on the disk: caches of Hugging Face and ModelScope, disks of ours, folders.

Reads names, links and sizes, never contents; ModelScope's own records there are pickles and are
not opened at all. Layouts: huggingface_hub ``models--O--N/{refs,snapshots,blobs}``; modelscope
``models/O--N/snapshots/BRANCH`` and before that ``models/O/N`` or ``O/N`` with ``___`` for a dot.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from zhcache import disk
from zhcache.errors import IntegrityError, NotFound, UsageError, ZhcacheError
from zhcache.protocol.messages import ImportFile, ImportRequest, LockedRepo
from zhcache.protocol.names import (
    RepoId,
    is_commit,
    is_sha256,
    parse_path,
    parse_repo,
    parse_revision,
)

FOREIGN_NAMES = frozenset(
    {".git", ".cache", ".msc", ".mdl", ".mv", "._____temp", ".locks", ".lock"}
)
"""What other tools keep for themselves among a model's files."""

_FOREIGN_ENDS = (".incomplete", ".lock")


@dataclass
class Found:
    """One snapshot that can be taken in.

    Attributes:
        repo: Its name, checked.
        commit: Its commit where the layout knows one.
        revision: The branch or tag that pointed at it.
        files: Paths in the repository and the real files that hold them, symlinks resolved.
        is_linkable: Whether all files are blobs of a content-addressed cache, which nobody
            writes in place, so that a hard link may stand in for a copy.
        skipped: What cannot be taken, as shown to the user.
        lock: What the files must be, where that is known.
        is_pinned: The user has the lock from elsewhere than the files.
        flaw: Why it cannot be taken in, though its lock names it.
        etags: What the hub calls a file's bytes, by path, where the layout keeps it: their sha256,
            or git's sha1 of them.
    """

    repo: RepoId
    commit: str | None = None
    revision: str | None = None
    files: list[tuple[str, Path, int]] = field(default_factory=list)
    is_linkable: bool = False
    skipped: list[str] = field(default_factory=list)
    lock: LockedRepo | None = None
    is_pinned: bool = False
    flaw: ZhcacheError | None = None
    etags: dict[str, str] = field(default_factory=dict[str, str])

    def held_to(self, lock: LockedRepo) -> Found:
        """Returns the same, held to a lock that the user has from elsewhere.

        Raises:
            IntegrityError: A file that the lock names is not there.
        """
        here = {path for path, _, _ in self.files}
        for file in lock.files:
            if file.path not in here:
                raise IntegrityError(
                    "{path} of {repo}, which the lock names, is not there",
                    hint="nothing of the model was taken in",
                    path=file.path,
                    repo=self.repo,
                )
        named = {file.path for file in lock.files}
        files = [file for file in self.files if file[0] in named]
        revision = self.revision or _branch(lock)
        return replace(
            self, commit=lock.commit, revision=revision, files=files, lock=lock, is_pinned=True
        )

    def request(self) -> ImportRequest:
        """Returns the head of the import."""
        return ImportRequest(
            repo=str(self.repo),
            commit=self.commit,
            revision=self.revision,
            files=[
                ImportFile(path=path, size=size, sha256=self._sha256(path))
                for path, _, size in self.files
            ],
            link=self.is_linkable,
            lock=self.lock,
            pinned=self.is_pinned,
        )

    def _sha256(self, path: str) -> str:
        # A shorter name proves nothing: what git calls a file, some mirrors call by its plain sha1.
        etag = self.etags.get(path, "")
        return etag if is_sha256(etag) else ""


def find(folder: Path, *, repo: str | None = None, revision: str | None = None) -> list[Found]:
    """Returns the snapshots that lie under ``folder``.

    Args:
        folder: A cache's root, one repository's folder in it, or a plain folder.
        repo: Takes this one alone; for a plain folder, what it is.
        revision: What a plain folder's snapshot is to be called.

    Raises:
        NotFound: No such folder, or nothing in it.
        UsageError: A plain folder and no name for it, or a disk's lock is none.
        IntegrityError: A disk's lock has paths that cannot be kept.
    """
    if not folder.is_dir():
        raise NotFound(
            "there is no folder {folder}",
            hint="give a folder that exists, or a model's file",
            folder=folder,
        )
    wanted = parse_repo(repo) if repo is not None else None
    known = list(_disk(folder)) or list(_hugging_face(folder)) or list(_modelscope(folder))
    if known:
        found = [snapshot for snapshot in known if wanted in (None, snapshot.repo)]
    elif wanted is not None:
        found = [_plain(folder, wanted, revision)]
    else:
        raise UsageError(
            "{folder} is neither a Hugging Face nor a ModelScope cache",
            hint="say what it is: zhcache import {folder} --repo OWNER/NAME",
            folder=folder,
        )
    found = [snapshot for snapshot in found if snapshot.files]
    if not found:
        raise NotFound(
            "nothing in {folder} can be imported",
            hint="without --repo all that is in it is taken, or told",
            folder=folder,
        )
    return found


def held(folder: Path, repo: RepoId) -> list[Found]:
    """Returns what lies under ``folder`` of one repository; nothing else there is looked at.

    Besides caches and disks that is a plain folder ``OWNER/NAME``. What a disk has in part is not
    returned.

    Raises:
        UsageError: A disk's lock is none.
        IntegrityError: A disk's lock has paths that cannot be kept.
        OSError: The folder cannot be read.
    """
    found = [one for one in _disk(folder) if one.repo == repo and one.flaw is None]
    for root in (folder, folder / "hub"):
        if _is_hub_repo(root / repo.folder):
            found += _hub_snapshots(root / repo.folder)
    scope = f"{repo.owner}--{repo.name}"
    for root in _scope_roots(folder):
        if (root / scope / "snapshots").is_dir():
            found += _scope_snapshots(root / scope)
        if repo.owner:
            found += [one for one in _scope_legacy(root / repo.owner) if one.repo == repo]
    plain = folder / repo.owner / repo.name
    if not found and any((plain / name).is_file() for name in ("model_index.json", "config.json")):
        found.append(_plain(plain, repo, None))
    return [one for one in found if one.files]


# --- disks --------------------------------------------------------------------------------------


def _disk(folder: Path) -> Iterator[Found]:
    for locked in disk.read_lock(folder):
        repo = parse_repo(locked.repo)
        found = Found(repo, commit=locked.commit, revision=_branch(locked), lock=locked)
        found.flaw = disk.missing(folder, locked)
        place = disk.folder_of(folder, locked.repo, locked.commit)
        found.files = [(f.path, place / f.path, f.size) for f in locked.files]
        yield found


def _branch(lock: LockedRepo) -> str | None:
    return None if is_commit(lock.revision) else lock.revision


# --- Hugging Face -------------------------------------------------------------------------------


def _hugging_face(folder: Path) -> Iterator[Found]:
    for root in (folder, folder / "hub"):
        if _is_hub_repo(root):
            yield from _hub_snapshots(root)
            return
        repos = [entry for entry in _folders(root) if _is_hub_repo(entry)]
        for entry in repos:
            yield from _hub_snapshots(entry)
        if repos:
            return


def _is_hub_repo(folder: Path) -> bool:
    return folder.name.startswith("models--") and (folder / "snapshots").is_dir()


def _hub_snapshots(folder: Path) -> Iterator[Found]:
    try:
        repo = RepoId.from_folder(folder.name)
    except UsageError:
        return
    refs = _refs(folder / "refs")
    blobs = (_real(folder / "blobs"), _real(folder.parent / "blobs"))
    for snapshot in _folders(folder / "snapshots"):
        if not is_commit(snapshot.name):
            continue
        found = Found(repo, commit=snapshot.name, revision=refs.get(snapshot.name))
        _collect(found, snapshot)
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
        if not file.is_file() or not _is_revision(name):
            continue
        commit = file.read_text("ascii", "replace").strip()
        if name == "main" or commit not in named:
            named[commit] = name
    return named


# --- ModelScope ---------------------------------------------------------------------------------


LEGACY_MARKS = (".msc", ".mdl", "configuration.json")
"""Of these ModelScope's client leaves at least one in a model's folder."""


def scope_repo(name: str) -> RepoId | None:
    """Returns the repository that a folder ``O--N`` of ModelScope's cache is for, if it is one."""
    repo = _repo(name.replace("--", "/", 1))
    return repo if repo is not None and repo.owner else None


def legacy_repo(owner: str, name: str) -> RepoId | None:
    """Returns the repository that ``O/N`` of ModelScope's older cache is for, if it is one."""
    return _repo(f"{owner}/{name.replace('___', '.')}")


def _modelscope(folder: Path) -> Iterator[Found]:
    if (folder / "snapshots").is_dir():
        yield from _scope_snapshots(folder)
        return
    for root in _scope_roots(folder):
        for entry in _folders(root):
            if (entry / "snapshots").is_dir():
                yield from _scope_snapshots(entry)
            elif entry.name not in ("models", "hub"):
                yield from _scope_legacy(entry)


def _scope_roots(folder: Path) -> tuple[Path, ...]:
    return folder / "models", folder / "hub" / "models", folder / "hub", folder


def _scope_snapshots(folder: Path) -> Iterator[Found]:
    repo = scope_repo(folder.name)
    if repo is None:
        return
    for branch in _folders(folder / "snapshots"):
        if _is_revision(branch.name):
            found = Found(repo, revision=branch.name)
            _collect(found, branch)
            yield found


def _scope_legacy(owner: Path) -> Iterator[Found]:
    for folder in _folders(owner):
        repo = legacy_repo(owner.name, folder.name)
        if repo is not None and _looks_like_model(folder):
            found = Found(repo, revision="master")
            _collect(found, folder)
            yield found


def _looks_like_model(folder: Path) -> bool:
    # Only what ModelScope's own client leaves: a config.json would make a component of a plain
    # pipeline folder a repository.
    return any((folder / name).exists() for name in LEGACY_MARKS)


# --- plain folders ------------------------------------------------------------------------------


def _plain(folder: Path, repo: RepoId, revision: str | None) -> Found:
    if revision is not None:
        parse_revision(revision)
    found = Found(repo, commit=_local_dir_commit(folder), revision=revision)
    _collect(found, folder)
    return found


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


# --- all of them --------------------------------------------------------------------------------


def _collect(found: Found, folder: Path) -> None:
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in FOREIGN_NAMES)
        for name in sorted(names):
            if name in FOREIGN_NAMES or name.endswith(_FOREIGN_ENDS):
                continue
            file = Path(base) / name
            path = file.relative_to(folder).as_posix()
            try:
                parse_path(path)
                # Resolved here and opened without following: what is seen is what is sent.
                real = file.resolve(strict=True)
                status = real.stat()
            except (OSError, ZhcacheError):
                found.skipped.append(path)
                continue
            if stat.S_ISREG(status.st_mode):
                found.files.append((path, real, status.st_size))
            else:
                found.skipped.append(path)


def _folders(folder: Path) -> list[Path]:
    # ModelScope leaves a symlink under the true name beside a folder with ``___``.
    if not folder.is_dir():
        return []
    return sorted(e for e in folder.iterdir() if e.is_dir() and not e.is_symlink())


def _repo(text: str) -> RepoId | None:
    try:
        return parse_repo(text)
    except UsageError:
        return None


def _is_revision(text: str) -> bool:
    try:
        parse_revision(text)
    except UsageError:
        return False
    return True


def _real(path: Path) -> Path:
    return path.resolve()
