"""What a source is: the resolution of a repository, and the protocol of those who make one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, runtime_checkable

import msgspec

from zhcache.errors import ZhcacheError
from zhcache.protocol.messages import SourceKind
from zhcache.protocol.names import RepoId, RepoPath, Revision
from zhcached.errors import StatusError
from zhcached.store.digest import Promise
from zhcached.transport.address import Origin
from zhcached.transport.http import Target


class RemoteFile(msgspec.Struct, frozen=True):
    """One file of a listing: its size in bytes and the digests its hub promises.

    Both digests may be None where a hub lists a file without one; such a file may be fetched
    only if another source promises a digest.
    """

    path: RepoPath
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def promise(self) -> Promise | None:
        """What the bytes must hash to, or None where the hub says nothing."""
        if self.sha256 is None and self.git_sha1 is None:
            return None
        return Promise(size=self.size, sha256=self.sha256, git_sha1=self.git_sha1)


class Resolution(msgspec.Struct, frozen=True):
    """What one source says a repository is at one moment.

    Attributes:
        source: Name of the source in the configuration.
        kind: Its protocol.
        repo: The repository's name there, after renames.
        revision: The branch, tag or commit there that was resolved, in that hub's words.
        commit: 40 hex digits. Of a hub with commits the git commit; otherwise derived from the
            listing, so that equal listings and only they have equal commits.
        files: The whole listing, sorted by path.
        origin: Who answered.
        private: Not everybody may read it: private, gated, or listed only with a credential.
        warnings: What the user should hear, such as a rename.
    """

    source: str
    kind: SourceKind
    repo: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    origin: Origin
    private: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def is_hub(self) -> bool:
        """Whether it says what a repository is, and not only what somebody has of it."""
        return self.kind in ("huggingface", "modelscope")

    @property
    def has_git_commit(self) -> bool:
        """Whether ``commit`` names the same content at every source that shows it."""
        return self.kind == "huggingface"


class Holder(Protocol):
    """Who holds bytes by their digest, of whatever repository they are: the seam between machines.

    Thread-safe. What it sends is a stranger's, whoever put it there.
    """

    name: str
    kind: SourceKind
    origin: Origin

    def holding(self, digests: Collection[str], deadline_s: float) -> set[str]:
        """Returns those of ``digests`` that it would send.

        Raises:
            RemoteError: It could not be asked.
        """
        ...


@runtime_checkable
class BlobSource(Holder, Protocol):
    """One that sends ranges of them at an address."""

    def locate_blob(self, sha256: str) -> Target:
        """Returns where the bytes of a digest are; no request is made."""
        ...


class Tier(Holder, Protocol):
    """One that has bytes alone: what a repository is it does not know, and is not asked."""

    def probe(self, deadline_s: float) -> None:
        """Asks whether it would answer.

        Raises:
            RemoteError: It would not.
        """
        ...


class Source(Protocol):
    """A hub or mirror. Thread-safe; every call is bounded by its deadline as a whole."""

    name: str
    kind: SourceKind
    origin: Origin

    def resolve(self, repo: RepoId, revision: Revision | None, deadline_s: float) -> Resolution:
        """Returns what ``repo`` is at ``revision``; None and ``main`` mean the default branch.

        Raises:
            RepoUnavailable: The source answered no; its ``error`` says why.
            TransportError: It could not be reached, or the deadline passed.
            StatusError: It answered with an error that says nothing about the repository.
            RemoteInvalid: The answer cannot be right, or is over a limit.
            AddressRefused: It pointed where the configuration does not allow.
        """
        ...

    def locate(self, resolution: Resolution, path: RepoPath) -> Target:
        """Returns where the bytes of ``path`` are; no request is made."""
        ...

    def explain(self, resolution: Resolution, error: StatusError) -> ZhcacheError | None:
        """Returns what a status met while fetching bytes means for the user.

        None where it is not the hub itself that speaks (a data plane's 403 is an expired
        signature) or where it says nothing about the repository.
        """
        ...


@runtime_checkable
class DigestSource(Source, BlobSource, Protocol):
    """One that lists repositories and sends bytes by digest too: a peer."""
