"""One snapshot that lies in a folder, and its files. Reads names and sizes, never contents."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from zhcache.errors import IntegrityError, UsageError, ZhcacheError
from zhcache.protocol.messages import ImportFile, ImportRequest, LockedRepo
from zhcache.protocol.names import RepoId, is_commit, is_sha256, parse_path, parse_revision

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
        revision = self.revision or branch_of(lock)
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


def branch_of(lock: LockedRepo) -> str | None:
    """Returns the branch or tag that a lock was made of; None if that was a commit."""
    return None if is_commit(lock.revision) else lock.revision


def collect(found: Found, folder: Path) -> None:
    """Adds the files under ``folder`` to a snapshot, but for what other tools keep there."""
    for base, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if name not in FOREIGN_NAMES)
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


def folders(folder: Path) -> list[Path]:
    """Returns the folders in ``folder``, none if it is not there."""
    # ModelScope leaves a symlink under the true name beside a folder with ``___``.
    if not folder.is_dir():
        return []
    return sorted(e for e in folder.iterdir() if e.is_dir() and not e.is_symlink())


def is_revision(text: str) -> bool:
    """Tells whether a branch or tag can be called so."""
    try:
        parse_revision(text)
    except UsageError:
        return False
    return True
