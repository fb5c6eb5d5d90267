"""What a snapshot is: a repository at a commit, its files and what vouches for them. No I/O.

Names and digests are checked as carefully as a listing from the network: whoever can write a
manifest must not be able to lead a path out of the view.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from zhcache.errors import IntegrityError
from zhcache.protocol.messages import Trust
from zhcache.protocol.names import (
    RepoId,
    check_listing,
    is_commit,
    is_sha256,
    parse_path,
    parse_repo,
    parse_variant,
)

_RANK: dict[Trust, int] = {"first-use": 0, "quorum": 1, "pinned": 2}
_SHA1 = re.compile(r"[0-9a-f]{40}")


IMPORTED = "import"
"""The source of a snapshot that a user handed over instead of a hub."""

DERIVED = "derived"
"""The source of a snapshot that was made here of another one."""


class Original(msgspec.Struct, frozen=True):
    """What a hub has in place of a file that was converted here."""

    path: str
    size: int
    sha256: str


class ManifestFile(msgspec.Struct, frozen=True):
    """One file. ``git_sha1`` is there exactly if the hub keeps the file in git, not in LFS.

    ``converted_from`` is there if no hub has it: the pickle, or the index of pickles, that it was
    made of here.
    """

    path: str
    size: int
    sha256: str
    git_sha1: str | None = None
    trust: Trust = "first-use"
    converted_from: Original | None = None


class Derived(msgspec.Struct, frozen=True):
    """What a variant was made of.

    Args:
        of: The commit of the snapshot that it was made of.
        variant: The variant's name.
        recipe: The sha256, in hex, of all that its bytes follow from.
    """

    of: str
    variant: str
    recipe: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A repository at a commit, as held here.

    A variant is one too: ``derived`` says what it was made of, and ``commit`` is of our own making.
    ``complete`` is False if files of the listing were left out; ``left_out`` says why, by path.
    ``private`` is True if not everybody may read it at the hub that it came from.
    """

    repo: str
    commit: str
    created: float
    source: str
    trust: Trust
    uid: int
    files: tuple[ManifestFile, ...]
    complete: bool = True
    left_out: dict[str, str] = {}
    derived: Derived | None = None
    private: bool = False
    format: int = 1

    @property
    def is_public(self) -> bool:
        """Whether it is known that everybody may read it: what a user handed over is not."""
        return self.source != IMPORTED and not self.private

    @property
    def repo_id(self) -> RepoId:
        """The repository, parsed."""
        return parse_repo(self.repo)

    @property
    def bytes(self) -> int:
        """Bytes of all files, each path counted."""
        return sum(file.size for file in self.files)


def check(manifest: Manifest) -> Manifest:
    """Returns the manifest if every name in it is sound.

    Raises:
        IntegrityError: A name, digest or size is not, or two files contradict each other.
        UsageError: The repository's or the variant's name is not sound.
    """
    parse_repo(manifest.repo)
    if manifest.format != 1 or not is_commit(manifest.commit):
        raise IntegrityError("{commit} is not a commit", commit=repr(manifest.commit[:50]))
    if manifest.derived is not None:
        _check_derived(manifest.derived, manifest.commit)
    check_listing([parse_path(file.path) for file in manifest.files])
    by_sha1: dict[str, str] = {}
    for file in manifest.files:
        sha1 = file.git_sha1
        if not is_sha256(file.sha256) or file.size < 0 or (sha1 and not _SHA1.fullmatch(sha1)):
            raise IntegrityError("{path} has no sound digest or size", path=file.path)
        if sha1 and by_sha1.setdefault(sha1, file.sha256) != file.sha256:
            raise IntegrityError("one git sha1 stands for two contents: {sha1}", sha1=sha1)
        if (original := file.converted_from) is not None:
            parse_path(original.path)
            if not is_sha256(original.sha256) or original.size < 0:
                raise IntegrityError("{path} has no sound digest or size", path=original.path)
    return manifest


def _check_derived(derived: Derived, commit: str) -> None:
    parse_variant(derived.variant)
    if not is_commit(derived.of) or derived.of == commit:
        raise IntegrityError("{commit} is not a commit", commit=repr(derived.of[:50]))
    if not is_sha256(derived.recipe):
        raise IntegrityError("{recipe} is not a recipe", recipe=repr(derived.recipe[:70]))


def merge(old: Manifest, new: Manifest) -> Manifest:
    """Returns the manifest that holds the files of both.

    It stays with the user who brought the first of them. It is complete if one of the two knows
    of every file in it and either is complete itself or has what it left out here now.

    Raises:
        IntegrityError: They disagree about a file. A commit never changes, so one was lied to.
    """
    if old.derived is not None or new.derived is not None:
        return _same(old, new)
    by_path = {file.path: file for file in old.files}
    before = set(by_path)
    for file in new.files:
        known = by_path.get(file.path, file)
        if (known.sha256, known.size) != (file.sha256, file.size):
            raise IntegrityError(
                "{repo} at {commit} has {path} here already, with other content",
                hint="one source lied; compare with another one, or pin with `zhcache lock`",
                repo=new.repo,
                commit=new.commit,
                path=file.path,
            )
        by_path[file.path] = msgspec.structs.replace(
            file,
            git_sha1=file.git_sha1 or known.git_sha1,
            converted_from=file.converted_from or known.converted_from,
            trust=max(file.trust, known.trust, key=_RANK.__getitem__),
        )
    after = {file.path for file in new.files}
    left_out = {k: v for k, v in {**old.left_out, **new.left_out}.items() if k not in by_path}
    # What only one of the two vouches for drags the grade down to that one's.
    grade = max if after == before else min
    return msgspec.structs.replace(
        new,
        created=old.created,
        uid=old.uid,
        trust=new.trust if before < after else grade(old.trust, new.trust, key=_RANK.__getitem__),
        files=tuple(by_path[path] for path in sorted(by_path)),
        complete=_is_complete(old, by_path) or _is_complete(new, by_path),
        left_out=left_out,
    )


def _same(old: Manifest, new: Manifest) -> Manifest:
    """Returns a variant that is made again: its commit follows from its recipe, so must its files.

    Raises:
        IntegrityError: It came out otherwise.
    """
    if old.derived != new.derived or content(old) != content(new):
        raise IntegrityError(
            "{repo} has the variant {variant} here already, with other content",
            hint="to have it made anew, run `zhcache rm {repo} --variant {variant}` first",
            repo=new.repo,
            variant=(old.derived or new.derived or Derived("", "", "")).variant,
        )
    return msgspec.structs.replace(new, created=old.created, uid=old.uid)


def content(manifest: Manifest) -> set[tuple[str, int, str]]:
    """Returns (path, size, sha256) of each file."""
    return {(file.path, file.size, file.sha256) for file in manifest.files}


def _is_complete(one: Manifest, here: Mapping[str, ManifestFile]) -> bool:
    # No listing names what was converted here; what it was made of is as good as here.
    originals = {file.converted_from.path for file in here.values() if file.converted_from}
    paths = {path for path, file in here.items() if file.converted_from is None}
    of_hub = {file.path for file in one.files if file.converted_from is None}
    listed = of_hub.union(one.left_out) - originals
    return listed.issuperset(paths) and (
        one.complete or (bool(one.left_out) and listed.issubset(paths))
    )
