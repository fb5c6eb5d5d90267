"""Listings as hubs told them, kept on disk: what a gateway answers when no source can be asked.

A manifest tells only of files that are here; a client that asks for a listing must be told of all,
or it would take a part for the whole. Like the index this may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path

import msgspec
import structlog

from zhcache.errors import ZhcacheError
from zhcache.protocol.names import RepoId, check_listing, is_commit, parse_path
from zhcached.sources.base import RemoteFile
from zhcached.store import files
from zhcached.store.layout import Layout

MAX_KEPT = 50
"""Listings of one repository; the oldest go first."""

MAX_REPOS = 4096
"""Repositories of which nothing is here; the oldest go first. Whoever lists need not fetch."""

log = structlog.get_logger()


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One listing.

    Attributes:
        repo: As it was asked for.
        commit: Which commit it is of.
        asked: The branch, tag or commit by which the source was asked.
        source: Name of the source that defined it.
        private: Not everybody may read it there.
        files: All of it, sorted by path; each file has a digest.
    """

    repo: str
    commit: str
    asked: str
    source: str
    private: bool
    files: tuple[RemoteFile, ...]
    format: int = 1


class _Ref(msgspec.Struct):
    ref: str
    commit: str


class Listings:
    """The files under ``listings/``. Thread-safe: each is replaced whole.

    Args:
        layout: Where the store lies.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._root = layout.root / "listings"
        self._dropping = threading.Lock()

    def write(self, repo: RepoId, kept: Kept, ref: str | None) -> None:
        """Keeps a listing, and that a branch or tag means it now.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        path = self._path(repo, kept.commit)
        is_new = not path.parent.exists()
        with files.disk_errors(path):
            (path.parent / "refs").mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.read(repo, kept.commit) != kept:
            files.write_durably(path, msgspec.json.encode(kept), 0o600)
            self._drop_old(path.parent)
        if is_new:
            self._drop_repos()
        if ref is not None and self.refs(repo).get(ref) != kept.commit:
            record = msgspec.json.encode(_Ref(ref, kept.commit))
            files.write_durably(self._ref_path(repo, ref), record, 0o600)

    def read(self, repo: RepoId, commit: str) -> Kept | None:
        """Returns what is kept of a commit; a damaged listing is as good as none."""
        path = self._path(repo, commit)
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=Kept)
            check_listing([parse_path(file.path) for file in kept.files])
            sound = all(file.promise is not None for file in kept.files)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ZhcacheError) as error:
            log.warning("listing.unreadable", path=str(path), error=str(error))
            return None
        return kept if sound and kept.commit == commit and kept.format == 1 else None

    def refs(self, repo: RepoId) -> dict[str, str]:
        """Returns the commit that each branch and tag was last known to mean."""
        found: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in (self._root / repo.folder / "refs").iterdir():
                with contextlib.suppress(OSError, ValueError):
                    record = msgspec.json.decode(path.read_bytes(), type=_Ref)
                    if is_commit(record.commit) and self._ref_path(repo, record.ref) == path:
                        found[record.ref] = record.commit
        return found

    def _path(self, repo: RepoId, commit: str) -> Path:
        return self._root / repo.folder / f"{commit}.json"

    def _ref_path(self, repo: RepoId, ref: str) -> Path:
        return self._root / repo.folder / "refs" / self._layout.ref(repo, ref).name

    def _drop_old(self, folder: Path) -> None:
        kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-MAX_KEPT]:
            path.unlink(missing_ok=True)

    def _drop_repos(self) -> None:
        with self._dropping, files.disk_errors(self._root):
            only_listed = [
                entry
                for entry in os.scandir(self._root)
                if not (self._layout.repos / entry.name).exists()
            ]
            only_listed.sort(key=lambda entry: entry.stat().st_mtime)
            for entry in only_listed[:-MAX_REPOS]:
                shutil.rmtree(entry.path, ignore_errors=True)
