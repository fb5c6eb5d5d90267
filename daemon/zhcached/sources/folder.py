"""A folder as a source: a cache of another tool, a disk, or ``OWNER/NAME`` folders, read in place.

It is read and never written. What it says of a file's digest is what its layout says: a Hugging
Face cache names blobs by their digests, a disk has its lock; other folders say nothing, so that
their bytes serve only where a hub promises what they must be.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from zhcache.caches.find import held
from zhcache.caches.found import Found
from zhcache.errors import ZhcacheError
from zhcache.protocol.messages import SourceKind
from zhcache.protocol.names import RepoId, RepoPath, Revision, is_commit
from zhcached.errors import StatusError, TransportError
from zhcached.sources import refusals
from zhcached.sources.base import RemoteFile, Resolution
from zhcached.sources.listing import Listing
from zhcached.transport import local
from zhcached.transport.http import Target

_DEFAULT = ("main", "master")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


class FolderSource:
    """One folder; see ``base.Source``. A folder that vanished is asked again the next time.

    Args:
        name: Of the source.
        root: Absolute path of the folder.
    """

    kind: SourceKind = "folder"
    origin = local.ORIGIN

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root

    def resolve(self, repo: RepoId, revision: Revision | None, deadline_s: float) -> Resolution:
        """Returns what lies in the folder of ``repo``. Reads names, never contents."""
        del deadline_s
        try:
            if not self._root.is_dir():
                raise TransportError(f"there is no folder {self._root}", source=self.name)
            found = _chosen(held(self._root, repo), revision)
        except OSError as error:
            raise TransportError(f"the folder cannot be read: {error}", source=self.name) from error
        if found is None:
            raise refusals.missing_or_private(self.name, str(repo))
        files = self._listed(found)
        return Resolution(
            source=self.name,
            kind=self.kind,
            repo=str(repo),
            revision=found.revision or revision or _DEFAULT[0],
            commit=found.commit or _derived(files),
            files=files,
            origin=self.origin,
            # A cache holds what its user's token opened too, and does not say of what.
            private=True,
        )

    def locate(self, resolution: Resolution, path: RepoPath) -> Target:
        """Returns the file's name below the folder.

        Raises:
            TransportError: It is no longer there.
        """
        for found in held(self._root, RepoId(*_parts(resolution.repo))):
            if found.commit in (None, resolution.commit):
                for name, real, _ in found.files:
                    if name == path:
                        return Target(local.url_of(real))
        raise TransportError(f"{path} is no longer in {self._root}", source=self.name)

    def explain(self, resolution: Resolution, error: StatusError) -> ZhcacheError | None:
        """Returns None: a folder answers with no status that means more."""
        return None

    def _listed(self, found: Found) -> tuple[RemoteFile, ...]:
        locked = {file.path: file.sha256 for file in found.lock.files} if found.lock else {}
        listing = Listing(self.name)
        for path, _, size in found.files:
            etag = found.etags.get(path, "")
            sha256 = locked.get(path) or (etag if _SHA256.fullmatch(etag) else None)
            git_sha1 = etag if _SHA1.fullmatch(etag) else None
            listing.add(path, size, sha256=sha256, git_sha1=git_sha1)
        return listing.finish()


def _parts(repo: str) -> tuple[str, str]:
    owner, _, name = repo.rpartition("/")
    return owner, name


def _chosen(found: Sequence[Found], revision: Revision | None) -> Found | None:
    """Returns the snapshot that a revision means; one without a name is the default's. Pure."""
    if revision is not None and is_commit(revision):
        return next((one for one in found if one.commit == revision), None)
    wanted = _DEFAULT if revision in (None, *_DEFAULT) else (revision,)
    named = next((one for one in found if one.revision in wanted), None)
    if named is None and revision in (None, *_DEFAULT):
        return next((one for one in found if one.revision is None), None)
    return named


def _derived(files: Sequence[RemoteFile]) -> str:
    digest = hashlib.sha1(b"zhcache-folder-1\n", usedforsecurity=False)
    for file in files:
        digest.update(f"{file.path}\0{file.size}\0{file.sha256}\0{file.git_sha1}\n".encode())
    return digest.hexdigest()
