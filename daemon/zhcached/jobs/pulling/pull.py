"""Pulling through: a file is fetched when a client of the gateway asks for it.

``Pulls.listed`` says what a repository is, ``Pulls.find`` where a file of it is: here, or coming.
Listings are kept on disk, so that without a line to any source those of this store are answered
as they were; a file is fetched once, whoever waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from zhcache.errors import NotFound, ZhcacheError
from zhcache.protocol.names import RepoId, RepoPath, parse_repo
from zhcached.clock import Clock
from zhcached.config import ServeConfig
from zhcached.jobs.fetching.gather import Fetcher
from zhcached.jobs.pulling.arrivals import Arrivals
from zhcached.jobs.pulling.coming import Arrival, Reader
from zhcached.jobs.pulling.doubts import Doubts
from zhcached.jobs.pulling.listed import Listing
from zhcached.jobs.pulling.possession import Possession, not_shown
from zhcached.jobs.pulling.publishing import Publishing
from zhcached.jobs.pulling.shown import Listed, entry_of, file_of, whole_of
from zhcached.sources.alias import HubNames
from zhcached.sources.base import RemoteFile, Source
from zhcached.store.digest import Committed, Promise
from zhcached.store.snapshots import Manifest

__all__ = ["Coming", "Here", "Listed", "Pulls"]


class Here(msgspec.Struct, frozen=True):
    """A file that is a blob of this store.

    Attributes:
        sha256: Its name.
        git_sha1: Git's name of it, where a hub keeps it in git.
        size: Bytes.
        file: Where it lies. It may be collected at any moment; an open descriptor stays good.
        tainted: Bytes of it were taken back lately: whoever resumes may hold wrong ones.
    """

    sha256: str
    git_sha1: str | None
    size: int
    file: Path
    tainted: bool = False


class Coming:
    """A file that is not here. Nothing is fetched before ``read``.

    Attributes:
        size: Bytes.
        promise: What it must turn out to be.
        sha256: Its name, if that was promised.
    """

    def __init__(
        self, promise: Promise, arrive: Callable[[], Arrival], is_tainted: Callable[[], bool]
    ) -> None:
        self.size = promise.size
        self.promise = promise
        self.sha256 = promise.sha256
        self._arrive = arrive
        self._is_tainted = is_tainted

    @property
    def tainted(self) -> bool:
        """As of ``Here``, but this may change until its bytes are first looked at."""
        return self._is_tainted()

    def read(self) -> Reader:
        """Starts or joins the fetch and returns a reader of it; the caller closes it.

        Waits for nothing.
        """
        return self._arrive().read()


class Pulls:
    """What the gateway serves. Thread-safe and synchronous.

    Args:
        fetcher: Shared with the jobs: one fetch of each set of bytes in the whole daemon.
        sources: All there are.
        aliases: The user's own names for repositories.
        clock: The time.
        config: What may be served.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        sources: Sequence[Source],
        aliases: Mapping[str, HubNames],
        clock: Clock,
        config: ServeConfig,
    ) -> None:
        self._fetcher = fetcher
        self._store = fetcher.store
        self._config = config
        self._listing = Listing(fetcher, sources, aliases, clock, config)
        self._possession = Possession(fetcher, self._listing, config)
        self._doubts = Doubts(self._store, clock)
        self._publishing = Publishing(self._store, clock, self._listing.refs_to)
        self._arrivals = Arrivals(
            fetcher, self._listing, self._possession, self._publishing, clock, config
        )

    def listed(
        self, repo: RepoId, revision: str | None, count: Callable[[], None] = lambda: None
    ) -> Listed:
        """Returns what a repository is at a branch, tag or commit; None is its default branch.

        ``count`` is called before sources are asked, one call at a time; raises Busy to forbid it.

        Raises:
            NotFound: No source has it, or it may not be served.
            Gated: Its terms must be accepted.
            NotPermitted: It was taken down.
            SourcesFailed: No source could be asked, and nothing of it is kept here.
            IntegrityError: The sources contradict each other.
        """
        return self._listing.find(repo, revision, count)

    def check_open(self, repo: RepoId) -> None:
        """Asks nobody whether a repository may be served by what was last said of it.

        Raises:
            ZhcacheError: It may not.
        """
        self._listing.check_open(repo)

    def is_public(self, manifest: Manifest) -> bool:
        """Tells whether everybody may have a snapshot, by what is known here of its repository."""
        try:
            self._listing.check_open(manifest.repo_id)
        except ZhcacheError:
            return False
        return manifest.is_public

    def may_serve(self, manifest: Manifest) -> bool:
        """Tells whether a snapshot may go to clients: it is public, or entitled."""
        return manifest.repo in self._config.entitled or self.is_public(manifest)

    def refs(self, repo: RepoId) -> dict[str, str]:
        """Returns the commits that branches and tags of a repository were last known to mean."""
        return self._listing.refs(repo)

    def find(self, listed: Listed, path: RepoPath) -> Here | Coming:
        """Returns a file of a listing; nothing is fetched before it is read.

        Raises:
            NotFound: There is no such file, or it is not here and may not be fetched.
            UnsafeWeights: It exists only as pickle, which is not served.
        """
        file = file_of(listed, path)
        promise = file.promise
        assert promise is not None
        arrival = self._arrivals.of(promise.key)
        if arrival is not None and arrival.found is not None:
            return self._here(arrival.found, promise)
        if arrival is None and (found := self._held(listed, file, promise)) is not None:
            return self._here(found, promise)
        if not self._config.pull:
            raise NotFound(
                "{path} of {repo} is not in the store",
                hint="fetch it with `zhcache prefetch {repo}`; [serve] pull = true would do so",
                path=path,
                repo=listed.repo,
            )
        return Coming(
            promise,
            partial(self._arrivals.join, listed, file, promise),
            partial(self._doubts.has, promise.key),
        )

    @property
    def node(self) -> str:
        """This machine's name among its peers."""
        return self._fetcher.origins.node

    def shown(self, sha256: str) -> Here | Coming | None:
        """Returns bytes that are being brought now and may be read as they come, or just came.

        Nothing is begun, and nothing goes on for whoever reads.
        """
        shown = self._fetcher.origins.shown(sha256)
        if shown is None:
            return None
        promise = Promise(shown.size, sha256)
        ingest = self._store.ingests.opened(promise.key)
        closed = shown.closed | (ingest.closed if ingest is not None else frozenset())
        if not closed <= {*self._config.entitled} or self._doubts.has(promise.key):
            return None
        if ingest is None:
            found = self._store.presence.find(promise)
            return self._here(found, promise) if found is not None else None
        if self._fetcher.limiter.bytes_per_s:
            # Under a limit of this machine's others are better off with the hub.
            return None
        return Coming(
            promise,
            partial(self._arrivals.beside, promise),
            partial(self._doubts.has, promise.key),
        )

    @property
    def running(self) -> int:
        """How many files are on their way."""
        return len(self._arrivals)

    @property
    def misses(self) -> int:
        """How many files had to be fetched."""
        return self._arrivals.misses

    def stop(self, grace_s: float = 5.0) -> bool:
        """Ends the fetches, which keep what came; tells whether all have ended in time."""
        self._arrivals.stop(grace_s)
        self._publishing.stop(grace_s)
        if not self._arrivals:
            self._doubts.close()
        return not self._arrivals

    def _here(self, found: Committed, promise: Promise) -> Here:
        place = self._store.blobs.path(found.sha256)
        # Of bytes that lie about unproven some may have been given, and the file came another way.
        is_left = self._store.ingests.is_left(promise.key)
        is_tainted = is_left or self._doubts.has(promise.key)
        return Here(found.sha256, found.git_sha1, found.size, place, is_tainted)

    def _held(self, listed: Listed, file: RemoteFile, promise: Promise) -> Committed | None:
        """Returns the blob of a file if it is here, and sees to it that a snapshot names it."""
        if self._publishing.knows(parse_repo(listed.repo), listed.commit, file.path):
            return self._store.presence.find(promise)
        job = self._arrivals.job()
        found = self._store.presence.find(promise, job)
        if found is None:
            self._store.leases.release_holds(job)
        elif self._possession.may_give(listed, file, found):
            entry = entry_of(file, found, "first-use")
            self._publishing.add(whole_of(listed), entry, job)
        else:
            self._store.leases.release_holds(job)
            raise not_shown(listed, file)
        return found
