"""The records under ``repos/``: manifests, which refs point at them, which repositories are pinned.

JSON, one file each, written whole and durably: the truth from which the index is rebuilt.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol.names import RepoId, is_commit, parse_revision
from zhcached.errors import StoreDamaged
from zhcached.store import files
from zhcached.store.layout import Layout
from zhcached.store.quality import Qualities
from zhcached.store.snapshots import Manifest, check, merge


class _Ref(msgspec.Struct):
    ref: str
    commit: str


class _Pin(msgspec.Struct):
    uid: int


class Manifests:
    """The records under ``repos/``. Writers are serialised by the store; readers need no lock.

    Args:
        layout: Where the store lies.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def write(self, manifest: Manifest) -> Manifest:
        """Makes the snapshot durable, merged with what is known of its commit; returns the whole.

        Raises:
            IntegrityError: A name is not sound, or a file contradicts what is known.
            StoreDamaged: The manifest that is here cannot be read.
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        check(manifest)
        repo = manifest.repo_id
        path = self._layout.manifest(repo, manifest.commit)
        self._make_folders(repo)
        with contextlib.suppress(FileNotFoundError):
            manifest = check(merge(self._decode(path), manifest))
        in_order = sorted(manifest.files, key=lambda file: file.path)
        manifest = msgspec.structs.replace(manifest, files=tuple(in_order))
        files.write_durably(path, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        return manifest

    def read(self, repo: RepoId, commit: str) -> Manifest:
        """Returns the snapshot's record, every name in it checked again.

        Raises:
            FileNotFoundError: There is none.
            StoreDamaged: The file is not a sound manifest of that snapshot.
        """
        path = self._layout.manifest(repo, commit)
        manifest = self._decode(path)
        if manifest.commit != commit or manifest.repo_id.folder != repo.folder:
            raise StoreDamaged(reason=f"{path} is the manifest of another snapshot")
        return manifest

    def is_complete(self, repo: RepoId, commit: str) -> bool:
        """Tells whether a snapshot has every file of its listing, as far as is known here."""
        try:
            return self.read(repo, commit).complete
        except (FileNotFoundError, StoreDamaged):
            return False

    def list(self, only: RepoId | None = None) -> Iterator[tuple[RepoId, str, os.stat_result]]:
        """Yields repository, commit and stat of every manifest file, unread; of one's or of all."""
        for repo in self.repos() if only is None else (only,):
            with (
                contextlib.suppress(FileNotFoundError),
                os.scandir(self._layout.repo(repo) / "snapshots") as entries,
            ):
                for entry in entries:
                    commit = entry.name.removesuffix(".json")
                    if is_commit(commit) and entry.is_file(follow_symlinks=False):
                        yield repo, commit, entry.stat(follow_symlinks=False)

    def repos(self) -> Iterator[RepoId]:
        """Yields every repository that has a folder."""
        with os.scandir(self._layout.repos) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        for name in names:
            with contextlib.suppress(UsageError):
                yield RepoId.from_folder(name)

    def remove(self, repo: RepoId, commit: str) -> None:
        """Removes the snapshot's record durably, and the repository's folder with its last."""
        path = self._layout.manifest(repo, commit)
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            files.sync_dir(path.parent)
        Qualities(self._layout).drop(repo, commit)
        self._drop_empty(repo)

    def set_ref(self, repo: RepoId, ref: str, commit: str) -> None:
        """Points a branch or tag at a commit, durably.

        Raises:
            UsageError: The ref's name is not sound.
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        parse_revision(ref)
        self._make_folders(repo)
        files.write_durably(self._layout.ref(repo, ref), msgspec.json.encode(_Ref(ref, commit)))

    def refs(self, repo: RepoId) -> dict[str, str]:
        """Returns the commit of each branch and tag. A damaged ref is as good as none."""
        found: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in (self._layout.repo(repo) / "refs").iterdir():
                if files.is_temporary(path.name):
                    continue
                with contextlib.suppress(msgspec.DecodeError, ZhcacheError, OSError):
                    record = msgspec.json.decode(path.read_bytes(), type=_Ref)
                    if is_commit(record.commit) and self._layout.ref(repo, record.ref) == path:
                        found[parse_revision(record.ref)] = record.commit
        return found

    def remove_ref(self, repo: RepoId, ref: str) -> None:
        """Removes a branch or tag durably."""
        path = self._layout.ref(repo, ref)
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            files.sync_dir(path.parent)

    def pin(self, repo: RepoId, uid: int) -> None:
        """Marks the repository as pinned by a user, durably. The first pin stays."""
        if not self.pinned(repo):
            self._make_folders(repo)
            files.write_durably(self._layout.pinned(repo), msgspec.json.encode(_Pin(uid)))

    def unpin(self, repo: RepoId) -> None:
        """Takes the mark away, durably."""
        self._layout.pinned(repo).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            files.sync_dir(self._layout.repo(repo))
        self._drop_empty(repo)

    def pinned(self, repo: RepoId) -> bool:
        """Tells whether the repository is pinned."""
        return self._layout.pinned(repo).exists()

    def pinner(self, repo: RepoId) -> int | None:
        """Returns who pinned the repository; None if nobody did or the mark does not say."""
        try:
            return msgspec.json.decode(self._layout.pinned(repo).read_bytes(), type=_Pin).uid
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _decode(self, path: Path) -> Manifest:
        content = path.read_bytes()
        try:
            return check(msgspec.json.decode(content, type=Manifest))
        except (msgspec.DecodeError, ZhcacheError) as error:
            raise StoreDamaged(reason=f"{path}: {error}") from error

    def _make_folders(self, repo: RepoId) -> None:
        home = self._layout.repo(repo)
        if (home / "snapshots").is_dir() and (home / "refs").is_dir():
            return
        with files.disk_errors(home):
            for folder in (home / "snapshots", home / "refs"):
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            files.sync_dir(home)
            files.sync_dir(home.parent)

    def _drop_empty(self, repo: RepoId) -> None:
        home = self._layout.repo(repo)
        for folder in (home / "snapshots", home / "refs", home):
            with contextlib.suppress(OSError):
                folder.rmdir()
