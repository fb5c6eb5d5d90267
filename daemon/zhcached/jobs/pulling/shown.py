"""What clients of the gateway are shown of a listing, and which of it they are given. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import msgspec

from zhcache.errors import NotFound, UnsafeWeights
from zhcache.protocol.messages import Trust
from zhcache.protocol.names import RepoId, RepoPath, parse_path
from zhcached.jobs.asking.brief import Brief
from zhcached.jobs.pulling.listings import Kept
from zhcached.jobs.pulling.publishing import Whole
from zhcached.sources.base import RemoteFile
from zhcached.sources.pickles import ONLY_PICKLE
from zhcached.sources.selection import select_served
from zhcached.store.digest import Committed, Promise
from zhcached.store.snapshots import Manifest, ManifestFile


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A repository at a commit.

    Attributes:
        repo: As it was asked for.
        revision: Branch, tag or commit that was asked for.
        commit: What that means.
        files: What to show, sorted by path.
        left_out: Those of ``files`` that are not given out, with the reason: weights that exist
            only as pickle. Not to show them would let a client take the rest for all.
        unlisted: What the hub lists and nobody needs, with the reason: pickles with a safe twin.
        private: Not everybody may read it, and it is served all the same.
        current: False if no source could be asked and this is from what is kept here.
        source: Name of the source that defined it.
    """

    repo: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    left_out: dict[str, str]
    unlisted: dict[str, str]
    private: bool
    current: bool
    source: str


def show(repo: RepoId, kept: Kept, *, pickle: bool) -> Listed:
    """Returns what clients are told of a listing. Pure.

    Args:
        repo: As it was asked for.
        kept: The listing.
        pickle: Pickles are given out.
    """
    chosen = select_served(kept.files, pickle=pickle)
    refused = {k: v for k, v in chosen.left_out.items() if v == ONLY_PICKLE}
    unlisted = {k: v for k, v in chosen.left_out.items() if k not in refused}
    return Listed(
        repo=str(repo),
        revision=kept.asked,
        commit=kept.commit,
        files=tuple(file for file in kept.files if file.path not in unlisted),
        left_out=refused,
        unlisted=unlisted,
        private=kept.private,
        current=True,
        source=kept.source,
    )


def file_of(listed: Listed, path: RepoPath) -> RemoteFile:
    """Returns a file of a listing. Pure.

    Raises:
        NotFound: There is no such file.
        UnsafeWeights: It exists only as pickle.
    """
    if path in listed.left_out:
        raise UnsafeWeights(
            "{path} of {repo} exists only as pickle, which runs code when it is read",
            hint="[serve] pickle = true of the machine that serves it gives such files out",
            path=path,
            repo=listed.repo,
        )
    place = bisect_left(listed.files, path, key=lambda file: file.path)
    if place == len(listed.files) or listed.files[place].path != path:
        raise NotFound(
            "{repo} has no file {path} at {commit}",
            repo=listed.repo,
            path=path,
            commit=listed.commit,
        )
    return listed.files[place]


def whole_of(listed: Listed) -> Whole:
    """Returns what a manifest of its files is to say of the commit. Pure."""
    return Whole(
        repo=listed.repo,
        commit=listed.commit,
        source=listed.source,
        private=listed.private,
        paths=frozenset(file.path for file in listed.files) - listed.left_out.keys(),
        left_out={**listed.left_out, **listed.unlisted},
    )


def entry_of(file: RemoteFile, found: Committed, grade: Trust) -> ManifestFile:
    """Returns what a manifest is to say of a file whose blob is here. Pure."""
    kept = found.git_sha1 if found.git_sha1 == file.git_sha1 else None
    return ManifestFile(file.path, found.size, found.sha256, kept, grade)


def with_digest(file: RemoteFile, promised: Mapping[RepoPath, Promise]) -> RemoteFile:
    """Returns the file with another source's digest where its own hub names none. Pure."""
    if file.promise is not None or (promise := promised.get(file.path)) is None:
        return file
    return msgspec.structs.replace(file, sha256=promise.sha256, git_sha1=promise.git_sha1)


def has_bytes(brief: Brief, file: RemoteFile) -> bool:
    """Tells whether a brief has the very bytes that a listing named before. Pure."""
    found = next((f for f in brief.comparison.files if f.path == file.path), None)
    if found is None or found.promise.size != file.size:
        return False
    by_sha256 = file.sha256 is not None and found.promise.sha256 == file.sha256
    return by_sha256 or (file.git_sha1 is not None and found.promise.git_sha1 == file.git_sha1)


def of_manifest(manifest: Manifest) -> Kept:
    """Returns the files of a snapshot as a listing. Pure."""
    files = (
        # What git keeps is known to clients by git's digest alone, as its hub lists it.
        RemoteFile(parse_path(f.path), f.size, None if f.git_sha1 else f.sha256, f.git_sha1)
        for f in manifest.files
    )
    return Kept(
        repo=manifest.repo,
        commit=manifest.commit,
        asked=manifest.commit,
        source=manifest.source,
        private=not manifest.is_public,
        files=tuple(files),
    )
