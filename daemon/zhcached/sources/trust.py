"""Whom to believe: the promises of all sources compared, before a byte is fetched. Pure.

A mirror that serves wrong bytes with a matching wrong hash passes every check against its own
listing. What catches it is somebody else: a lock file, or a second source of another origin that
promises the same digest. The grade says which of them spoke:

- ``pinned``: a lock file names every digest.
- ``quorum``: two sources of different origins promise the same digest for every file a pipeline
  loads. Documents do not count: hubs keep their own README and configuration.json.
- ``first-use``: one source's word; it is recorded, and a later change is shouted.

Two sources that show different digests at one git commit prove that one of them lies, since the
commit names the content. Without a common commit (a re-upload) they may merely differ, and the
first source defines what the repository is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

from zhcache.errors import IntegrityError, NotFound
from zhcache.protocol.messages import LockedFile, LockedRepo, Trust
from zhcache.protocol.names import RepoPath
from zhcached.sources.base import RemoteFile, Resolution
from zhcached.store.digest import Promise

_DOCUMENTS = (
    "readme*", "licen[sc]e*", "notice*", "use_policy*", "*.md", ".gitattributes", ".gitignore",
    "configuration.json", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.svg", "*.mp4", "*.pdf",
)  # fmt: skip


class FileTrust(msgspec.Struct, frozen=True):
    """What one file must be, and who may send it.

    Attributes:
        path: The file.
        promise: All digests its bytes must have. Where one source promises a sha256 and another
            a git sha1, both: only bytes that meet both prove that the two agree.
        first_promise: What the first source promises by itself; differs from ``promise`` only
            there, and is what is left should the two turn out to mean different files.
        served_by: Sources that may send it, in the order given.
        grade: How well the promise is founded.
    """

    path: RepoPath
    promise: Promise
    first_promise: Promise
    served_by: tuple[str, ...]
    grade: Trust


class Comparison(msgspec.Struct, frozen=True):
    """The outcome for one repository.

    Attributes:
        files: One entry for each path asked about, in that order.
        grade: The snapshot's grade, that of its worst loaded file.
        liars: Sources proved false, with the proof; they serve nothing.
        warnings: What the user should hear.
    """

    files: tuple[FileTrust, ...]
    grade: Trust
    liars: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


def compare(
    resolutions: Sequence[Resolution],
    paths: Iterable[RepoPath],
    *,
    lock: LockedRepo | None = None,
) -> Comparison:
    """Returns what each of ``paths`` must be and who may send it.

    Args:
        resolutions: What the sources say, the defining one first. All are of the repository that
            was asked for, under whatever name it has there.
        paths: The selected files of the first resolution; with a lock, the locked files.
        lock: The lock file's entry; its digests are the only ones believed.

    Raises:
        IntegrityError: Sources contradict each other at one commit and none has a majority; a
            locked digest is promised by nobody; or nobody promises any digest for a file.
        NotFound: No source lists a path.
    """
    listings = {r.source: {file.path: file for file in r.files} for r in resolutions}
    if lock is not None:
        return _against_lock(resolutions, listings, paths, lock)
    wanted = tuple(paths)
    liars = _liars(resolutions, listings, wanted)
    honest = [r for r in resolutions if r.source not in liars]
    warnings = [f"{name} is not used: {proof}" for name, proof in liars.items()]
    files = [_founded(honest, listings, path, warnings) for path in wanted]
    return Comparison(tuple(files), overall(files), liars, tuple(warnings))


def is_document(path: str) -> bool:
    """Tells whether ``path`` is something people read and no pipeline loads."""
    name = path.rpartition("/")[2].lower()
    return any(fnmatchcase(name, glob) for glob in _DOCUMENTS)


def _agree(one: RemoteFile, other: RemoteFile) -> bool:
    """Whether no promise of one contradicts the other's; silence contradicts nothing."""
    return (
        one.size == other.size
        and (one.sha256 is None or other.sha256 is None or one.sha256 == other.sha256)
        and (one.git_sha1 is None or other.git_sha1 is None or one.git_sha1 == other.git_sha1)
    )


def _liars(
    resolutions: Sequence[Resolution],
    listings: Mapping[str, Mapping[RepoPath, RemoteFile]],
    wanted: Iterable[RepoPath],
) -> dict[str, str]:
    commits: dict[str, list[Resolution]] = defaultdict(list)
    for resolution in resolutions:
        if resolution.has_git_commit:
            commits[resolution.commit].append(resolution)
    liars: dict[str, str] = {}
    for path in wanted:
        for commit, group in commits.items():
            shown = {
                r.source: listings[r.source][path] for r in group if path in listings[r.source]
            }
            if _all_agree(list(shown.values())):
                continue
            hubs = [r for r in resolutions if r.is_hub]
            votes = {r.source: f for r in hubs if (f := listings[r.source].get(path))}
            origins = {r.source: str(r.origin) for r in resolutions}
            for name in _outvoted(path, commit, shown, votes, origins):
                liars.setdefault(name, f"at commit {commit[:12]} it alone shows another {path}")
    return liars


def _all_agree(files: Sequence[RemoteFile]) -> bool:
    return all(_agree(one, other) for n, one in enumerate(files) for other in files[n + 1 :])


def _outvoted(
    path: RepoPath,
    commit: str,
    shown: Mapping[str, RemoteFile],
    votes: Mapping[str, RemoteFile],
    origins: Mapping[str, str],
) -> list[str]:
    """Returns the sources of ``shown`` whose version of ``path`` has fewer origins behind it."""
    support = {
        name: len({origins[voter] for voter, vote in votes.items() if _agree(file, vote)})
        for name, file in shown.items()
    }
    most = max(support.values())
    best = [name for name in shown if support[name] == most]
    if not _all_agree([shown[name] for name in best]):
        first, second = _opponents(best, shown)
        raise IntegrityError(
            "{first} and {second} show different {path} at the same commit {commit}: one of them "
            "lies",
            hint="ask a third source, or pin the hashes with --lock FILE",
            first=first,
            second=second,
            path=path,
            commit=commit[:12],
        )
    return [name for name, file in shown.items() if not _agree(file, shown[best[0]])]


def _opponents(names: Sequence[str], shown: Mapping[str, RemoteFile]) -> tuple[str, str]:
    first = names[0]
    return first, next(name for name in names if not _agree(shown[first], shown[name]))


def _founded(
    honest: Sequence[Resolution],
    listings: Mapping[str, Mapping[RepoPath, RemoteFile]],
    path: RepoPath,
    warnings: list[str],
) -> FileTrust:
    holders = [r for r in honest if path in listings[r.source]]
    if not holders:
        raise NotFound("no source lists {path}", path=path)
    own = listings[holders[0].source][path]
    agreeing: list[Resolution] = []
    merged = own
    for resolution in holders:
        theirs = listings[resolution.source][path]
        if _agree(merged, theirs):
            agreeing.append(resolution)
            merged = _merge(merged, theirs)
        elif not is_document(path):
            warnings.append(
                f"{resolution.source} has another {path} than {holders[0].source}; "
                "it is not asked for this file"
            )
    promise = merged.promise
    if promise is None:
        raise IntegrityError(
            "no source says what {path} must hash to",
            hint="add a source that does, or pin it with --lock FILE",
            path=path,
        )
    # What a peer or a folder has, it has from a hub: it is no second witness.
    vouching = {
        str(r.origin) for r in agreeing if r.is_hub and listings[r.source][path].promise is not None
    }
    return FileTrust(
        path=path,
        promise=promise,
        first_promise=own.promise or promise,
        served_by=tuple(r.source for r in agreeing),
        grade="quorum" if len(vouching) >= 2 else "first-use",
    )


def _merge(one: RemoteFile, other: RemoteFile) -> RemoteFile:
    return RemoteFile(
        one.path, one.size, one.sha256 or other.sha256, one.git_sha1 or other.git_sha1
    )


def _against_lock(
    resolutions: Sequence[Resolution],
    listings: Mapping[str, Mapping[RepoPath, RemoteFile]],
    paths: Iterable[RepoPath],
    lock: LockedRepo,
) -> Comparison:
    locked = {entry.path: entry for entry in lock.files}
    files: list[FileTrust] = []
    warnings: list[str] = []
    for path in paths:
        if path not in locked:
            raise IntegrityError(
                "{path} is not in the lock file for {repo}",
                hint="make a new one with `zhcache lock REPO > FILE`, or fetch without --lock",
                path=path,
                repo=lock.repo,
            )
        files.append(_locked(resolutions, listings, path, locked[path], warnings))
    return Comparison(tuple(files), "pinned", {}, tuple(warnings))


def _locked(
    resolutions: Sequence[Resolution],
    listings: Mapping[str, Mapping[RepoPath, RemoteFile]],
    path: RepoPath,
    entry: LockedFile,
    warnings: list[str],
) -> FileTrust:
    holders = {
        r.source: listings[r.source][path] for r in resolutions if path in listings[r.source]
    }
    if not holders:
        raise NotFound("no source lists {path}, which the lock file names", path=path)
    truth = RemoteFile(path, entry.size, entry.sha256)
    served = tuple(name for name, file in holders.items() if _agree(truth, file))
    if not served:
        raise IntegrityError(
            "{path} is not what the lock file pins at any source ({sources})",
            hint="the model has changed there or the sources lie: compare before making a new lock",
            path=path,
            sources=", ".join(holders),
        )
    warnings.extend(
        f"{name} has another {path} than the lock file" for name in holders if name not in served
    )
    promise = Promise(size=entry.size, sha256=entry.sha256, git_sha1=None)
    return FileTrust(path, promise, promise, served, "pinned")


def overall(files: Sequence[FileTrust]) -> Trust:
    """Returns a snapshot's grade from those of its files, the documents aside."""
    loaded = [file for file in files if not is_document(file.path)] or list(files)
    agreed = bool(loaded) and all(file.grade == "quorum" for file in loaded)
    return "quorum" if agreed else "first-use"
