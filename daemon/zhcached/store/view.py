"""The Hugging Face view: ``hub/`` is a cache that any tool of that ecosystem reads, offline.

``models--O--N/blobs/<etag>`` is a relative link into the blobs, ``snapshots/<commit>/<path>`` a
link to that, ``trees/<commit>.json`` the listing by which huggingface_hub tells a whole snapshot
from one with holes, ``refs/<ref>`` the commit. They are made in this order, so that a reader who
comes in between is told "incomplete" and never handed a folder with files missing.

Source: huggingface_hub 2.4, ``_tree_cache.py`` and ``_snapshot_download.py``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

import msgspec

from zhcache.protocol.names import RepoId, parse_path, parse_revision
from zhcached.store import files, folders
from zhcached.store.digest import lfs_pointer_sha1
from zhcached.store.failpoints import hit
from zhcached.store.layout import Layout
from zhcached.store.scope import ScopeView
from zhcached.store.snapshots import Manifest, ManifestFile


class HubView:
    """The view of one store. Writers are serialised by the store.

    Args:
        layout: Where the store lies.
        is_whole: Tells whether a snapshot has every file that its hub lists.
    """

    def __init__(self, layout: Layout, is_whole: Callable[[RepoId, str], bool]) -> None:
        self._layout = layout
        self._serial = count()
        self._scope = ScopeView(layout, is_whole, self._displace)

    def snapshot_dir(self, repo: RepoId, commit: str) -> Path:
        """The folder that ``from_pretrained`` reads."""
        return self._layout.hub / repo.folder / "snapshots" / commit

    def publish(self, manifest: Manifest) -> Path:
        """Makes the snapshot's links and returns its folder. Right ones are left as they are.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        repo = manifest.repo_id
        with files.disk_errors(self._layout.hub):
            # A user may take the whole view for a cache to be cleared.
            self._layout.hub.mkdir(mode=0o750, exist_ok=True)
        with (
            files.disk_errors(self._layout.hub),
            folders.opened(self._layout.hub) as hub,
            folders.entered(hub, [repo.folder], self._displace) as home,
        ):
            self._link_blobs(home, manifest)
            hit("publish.after_view_blobs")
            with folders.entered(home, ["trees"], self._displace) as trees:
                name = f"{manifest.commit}.json"
                folders.place_file(trees, name, _tree(manifest), self._displace)
            hit("publish.after_view_tree")
            self._link_snapshot(home, manifest)
        return self.snapshot_dir(repo, manifest.commit)

    def _link_blobs(self, home: int, manifest: Manifest) -> None:
        with folders.entered(home, ["blobs"], self._displace) as blobs:
            changed = False
            for file in manifest.files:
                target = _blob_target(file)
                changed |= folders.place_link(blobs, etag(file), target, self._displace)
            if changed:
                os.fsync(blobs)

    def altered(self, manifest: Manifest) -> list[str]:
        """Returns the paths whose links in the view are not what ``publish`` would make.

        Raises:
            ZhcacheError: The disk failed.
        """
        repo = manifest.repo_id
        found: list[str] = []
        if not self._layout.hub.is_dir():
            return [file.path for file in manifest.files]
        with files.disk_errors(self._layout.hub), folders.opened(self._layout.hub) as hub:
            with folders.found(hub, [repo.folder, "blobs"]) as blobs:
                for file in manifest.files:
                    if not _leads(blobs, etag(file), _blob_target(file)):
                        found.append(file.path)
            for parents, links in _by_folder(manifest).items():
                chain = [repo.folder, "snapshots", manifest.commit, *parents]
                with folders.found(hub, chain) as folder:
                    wrong = [name for name, target in links if not _leads(folder, name, target)]
                    found += ["/".join((*parents, name)) for name in wrong]
        return sorted(set(found))

    def _link_snapshot(self, home: int, manifest: Manifest) -> None:
        by_folder = _by_folder(manifest)
        top = ["snapshots", manifest.commit]
        with folders.entered(home, top, self._displace) as snapshot:
            for parents, links in by_folder.items():
                with folders.entered(snapshot, parents, self._displace) as folder:
                    changed = [folders.place_link(folder, *x, self._displace) for x in links]
                    if any(changed):
                        os.fsync(folder)

    def set_ref(self, repo: RepoId, ref: str, commit: str) -> None:
        """Points a branch or tag of the view at a commit.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        *parents, name = parse_revision(ref).split("/")
        with (
            files.disk_errors(self._layout.hub),
            folders.opened(self._layout.hub) as hub,
            folders.entered(hub, [repo.folder], self._displace) as home,
            folders.entered(home, ["refs", *parents], self._displace) as refs,
        ):
            # Readers take every file under refs/ for a ref: the unfinished one lies outside.
            content = commit.encode()
            folders.place_file(refs, name, content, self._displace, by_way_of=home)
        self._scope.set_ref(repo, ref, commit)

    def ref(self, repo: RepoId, ref: str) -> str | None:
        """Returns what a branch or tag of the view says, or None if there is no such file."""
        *parents, name = parse_revision(ref).split("/")
        with (
            folders.opened(self._layout.hub) as hub,
            folders.found(hub, [repo.folder, "refs", *parents]) as refs,
        ):
            try:
                text = None if refs is None else folders.read_file(refs, name, 100)
            except OSError:
                text = None
        return text.decode("ascii", "replace") if text is not None else None

    def remove_ref(self, repo: RepoId, ref: str) -> None:
        """Removes a branch or tag from the view, and the folders it leaves empty."""
        self._scope.remove_ref(repo, ref)
        *parents, name = parse_revision(ref).split("/")
        with folders.opened(self._layout.hub) as hub:
            folders.drop(hub, [repo.folder, "refs", *parents], name, keep=2)

    def remove(self, repo: RepoId, commit: str, kept: Iterable[Manifest]) -> None:
        """Removes a snapshot from the view, refs having gone before.

        Args:
            repo: The repository.
            commit: The snapshot to remove.
            kept: The repository's other snapshots, whose links stay.

        Raises:
            ZhcacheError: The disk failed.
        """
        others = list(kept)
        with (
            files.disk_errors(self._layout.hub),
            folders.opened(self._layout.hub) as hub,
            folders.found(hub, [repo.folder]) as home,
        ):
            if home is None:
                return
            if not others:
                # One step out of sight: a reader never sees the folder half empty.
                self._displace(hub, repo.folder)
                return
            with folders.found(home, ["snapshots"]) as snapshots:
                if snapshots is not None:
                    self._drop(snapshots, commit)
            with folders.found(home, ["trees"]) as trees:
                if trees is not None:
                    self._drop(trees, f"{commit}.json")
            with folders.found(home, ["blobs"]) as blobs:
                if blobs is not None:
                    self._drop_links(blobs, {etag(f) for m in others for f in m.files})

    def _drop(self, fd: int, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._displace(fd, name)
            os.fsync(fd)

    def _drop_links(self, blobs: int, keep: set[str]) -> None:
        for name in os.listdir(blobs):
            if name not in keep:
                with contextlib.suppress(IsADirectoryError):
                    os.unlink(name, dir_fd=blobs)
        os.fsync(blobs)

    def _displace(self, fd: int, name: str) -> None:
        """Takes a name out of the view in one step, then deletes it; links are not followed."""
        with folders.opened(self._layout.quarantine) as quarantine:
            target = f"view-{os.getpid()}-{next(self._serial)}"
            os.rename(name, target, src_dir_fd=fd, dst_dir_fd=quarantine)
            os.fsync(fd)
            try:
                os.unlink(target, dir_fd=quarantine)
            except IsADirectoryError:
                # dir_fd makes rmtree walk by descriptor: it removes links, never their targets.
                shutil.rmtree(target, dir_fd=quarantine)


def _blob_target(file: ManifestFile) -> str:
    return f"../../../blobs/sha256/{file.sha256[:2]}/{file.sha256}"


def _by_folder(manifest: Manifest) -> dict[tuple[str, ...], list[tuple[str, str]]]:
    """Returns (name, target) of each link of a snapshot, by the folders it lies in."""
    by_folder: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for file in manifest.files:
        *parents, name = parse_path(file.path).split("/")
        target = "../" * (2 + len(parents)) + f"blobs/{etag(file)}"
        by_folder[tuple(parents)].append((name, target))
    return by_folder


def _leads(folder: int | None, name: str, target: str) -> bool:
    if folder is None:
        return False
    try:
        return os.readlink(name, dir_fd=folder) == target
    except OSError:
        return False


def etag(file: ManifestFile) -> str:
    """The name a hub gives the content: git's sha1 for git-stored files, sha256 otherwise."""
    return file.git_sha1 or file.sha256


def _tree(manifest: Manifest) -> bytes:
    """Returns ``trees/<commit>.json``: of the listing, the files that are here."""
    listing: dict[str, dict[str, object]] = {}
    for file in manifest.files:
        if file.git_sha1:
            listing[file.path] = {"size": file.size, "blob_id": file.git_sha1}
        else:
            listing[file.path] = {
                "size": file.size,
                "blob_id": lfs_pointer_sha1(file.sha256, file.size),
                "lfs_sha256": file.sha256,
                "lfs_size": file.size,
            }
    body = msgspec.json.encode({"format_version": 1, "files": listing})
    return msgspec.json.format(body, indent=1)
