"""Pulling through: a file is fetched when a client of the gateway asks for it.

``Pulls.listed`` says what a repository is, ``Pulls.find`` where a file of it is: here, or coming.
Listings are kept on disk, so that without a line to any source those of this store are answered
as they were; a file is fetched once, whoever waits for it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import structlog

from zhcache.errors import Busy, Cancelled, NotFound, ZhcacheError
from zhcache.protocol.messages import Trust
from zhcache.protocol.names import RepoId, RepoPath, parse_repo
from zhcached.clock import Clock
from zhcached.config import ServeConfig
from zhcached.jobs.asking.brief import narrowed
from zhcached.jobs.fetching.gather import Fetcher, Gathering
from zhcached.jobs.fetching.meter import Meter
from zhcached.jobs.pulling.coming import Arrival, Reader
from zhcached.jobs.pulling.doubts import Doubts
from zhcached.jobs.pulling.listed import Listing
from zhcached.jobs.pulling.patience import Patience
from zhcached.jobs.pulling.possession import Possession
from zhcached.jobs.pulling.publishing import Publishing
from zhcached.jobs.pulling.shown import Listed, file_of, whole_of
from zhcached.jobs.queue import Control
from zhcached.sources.alias import HubNames
from zhcached.sources.base import RemoteFile, Source
from zhcached.store.digest import Committed, Promise
from zhcached.store.snapshots import Manifest, ManifestFile

__all__ = ["Coming", "Here", "Listed", "Pulls"]

LARGE_BYTES = 16 * 2**20
LARGE_AT_ONCE = 24
SMALL_AT_ONCE = 16
"""Small files do not wait for large ones: a client needs both to go on. Nor should large ones wait
for one another: a client that sees no byte for long gives up."""

log = structlog.get_logger()


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
        self._clock = clock
        self._config = config
        self._listing = Listing(fetcher, sources, aliases, clock, config)
        self._possession = Possession(fetcher, self._listing, config)
        self._doubts = Doubts(self._store, clock)
        self._publishing = Publishing(self._store, clock, self._listing.refs_to)
        self._lock = threading.Lock()
        self._arrivals: dict[str, Arrival] = {}
        self._serial = itertools.count(1)
        self._stopping = threading.Event()
        self._large = ThreadPoolExecutor(LARGE_AT_ONCE, "pull")
        self._small = ThreadPoolExecutor(SMALL_AT_ONCE, "pull-small")
        self._queued: dict[ThreadPoolExecutor, set[Arrival]] = {
            self._large: set(),
            self._small: set(),
        }
        self.misses = 0

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
        with self._lock:
            arrival = self._arrivals.get(promise.key)
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
            partial(self._arrive, listed, file, promise),
            partial(self._doubts.has, promise.key),
        )

    @property
    def running(self) -> int:
        """How many files are on their way."""
        return len(self._arrivals)

    def stop(self, grace_s: float = 5.0) -> bool:
        """Ends the fetches, which keep what came; tells whether all have ended in time."""
        self._stopping.set()
        for pool in (self._large, self._small):
            pool.shutdown(wait=False, cancel_futures=True)
        until = self._clock.monotonic() + grace_s
        while self._arrivals and self._clock.monotonic() < until:
            threading.Event().wait(0.02)
        self._publishing.stop(grace_s)
        if not self._arrivals:
            self._doubts.close()
        return not self._arrivals

    def _here(self, found: Committed, promise: Promise) -> Here:
        place = self._store.blobs.path(found.sha256)
        # Of bytes that lie about unproven some may have been given, and the file came another way.
        is_left = self._store.intake.is_left(promise.key)
        is_tainted = is_left or self._doubts.has(promise.key)
        return Here(found.sha256, found.git_sha1, found.size, place, is_tainted)

    def _held(self, listed: Listed, file: RemoteFile, promise: Promise) -> Committed | None:
        """Returns the blob of a file if it is here, and sees to it that a snapshot names it."""
        if self._publishing.knows(parse_repo(listed.repo), listed.commit, file.path):
            return self._store.intake.find(promise)
        job = f"pull-{next(self._serial)}"
        found = self._store.intake.find(promise, job)
        if found is None:
            self._store.leases.release_holds(job)
        elif self._possession.may_give(listed, file, found):
            self._publish(listed, file, found, "first-use", job)
        else:
            self._store.leases.release_holds(job)
            raise NotFound(
                "{path} of {repo} is not served: nobody has shown to have it but a model here that "
                "is not public",
                hint="its source must be in reach once; [serve] entitled names what may be served",
                path=file.path,
                repo=listed.repo,
            )
        return found

    def _arrive(self, listed: Listed, file: RemoteFile, promise: Promise) -> Arrival:
        with self._lock:
            arrival = self._arrivals.get(promise.key)
            if arrival is None or arrival.error is not None:
                arrival = Arrival(
                    self._store.intake,
                    promise.key,
                    promise.size,
                    wants=self._fetcher.wants,
                    clock=self._clock,
                    place=self._store.blobs.path,
                )
                self._arrivals[promise.key] = arrival
                self.misses += 1
                pool = self._large if promise.size > LARGE_BYTES else self._small
                self._queued[pool].add(arrival)
                pool.submit(self._fetch, listed, file, arrival, pool)
        return arrival

    def _is_crowded(self, pool: ThreadPoolExecutor) -> bool:
        with self._lock:
            queued = tuple(self._queued[pool])
        return any(arrival.idle_s() == 0.0 for arrival in queued)

    def _fetch(
        self, listed: Listed, file: RemoteFile, arrival: Arrival, pool: ThreadPoolExecutor
    ) -> None:
        with self._lock:
            self._queued[pool].discard(arrival)
        control = Patience(arrival, self._stopping, partial(self._is_crowded, pool))
        job = f"pull-{next(self._serial)}"
        structlog.contextvars.bind_contextvars(job=job, repo=listed.repo)
        try:
            control.check()
            found, grade = self._bring(listed, file, control, job)
        except Exception as error:  # noqa: BLE001 - told to all who wait
            self._store.leases.release_holds(job)
            self._forget(arrival)
            arrival.fail(_told(error))
        else:
            arrival.finish(found)
            # Until a manifest names it, what has only git's digest is found by nobody.
            done = partial(self._forget, arrival)
            self._publish(listed, file, found, grade, job, done)
        finally:
            structlog.contextvars.clear_contextvars()

    def _bring(
        self, listed: Listed, file: RemoteFile, control: Control, job: str
    ) -> tuple[Committed, Trust]:
        brief = narrowed(self._listing.brief(listed, file), file.path)
        meter = Meter(file.size, self._clock)
        gathering = Gathering(self._fetcher, brief, job, control, meter)
        log.info("pull.started", path=file.path, bytes=file.size)
        gathering.run()
        return gathering.committed[file.path], gathering.trust()[0].grade

    def _publish(
        self,
        listed: Listed,
        file: RemoteFile,
        found: Committed,
        grade: Trust,
        job: str,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        kept = found.git_sha1 if found.git_sha1 == file.git_sha1 else None
        entry = ManifestFile(file.path, found.size, found.sha256, kept, grade)
        self._publishing.add(whole_of(listed), entry, job, done)

    def _forget(self, arrival: Arrival) -> None:
        with self._lock:
            if self._arrivals.get(arrival.key) is arrival:
                del self._arrivals[arrival.key]


def _told(error: Exception) -> ZhcacheError:
    if isinstance(error, Cancelled):
        return Busy("the fetch was stopped", hint="ask again")
    if isinstance(error, ZhcacheError):
        return error
    log.exception("pull.defect")
    return ZhcacheError(
        "the daemon met a defect of its own: {kind}",
        hint="zhcache logs has the details; please report it",
        kind=type(error).__name__,
    )
