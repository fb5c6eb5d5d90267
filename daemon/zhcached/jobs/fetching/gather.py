"""Bringing in the files of a brief: several at once, each set of bytes once in the whole daemon."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import msgspec
import structlog

from zhcache.errors import Cancelled, IntegrityError, NoSpace, SourcesFailed
from zhcached.clock import SystemClock
from zhcached.config import DownloadConfig
from zhcached.config.hours import Rates
from zhcached.errors import RemoteError, RemoteInvalid
from zhcached.fetch import offer
from zhcached.fetch.answer import OtherSizeError
from zhcached.fetch.download import obtain
from zhcached.fetch.limits import RateLimiter
from zhcached.jobs.asking.brief import Brief
from zhcached.jobs.asking.health import Health
from zhcached.jobs.control import Control
from zhcached.jobs.fetching.claims import Claims
from zhcached.jobs.fetching.lanes import SMALL_AT_ONCE, Turns, is_small, lanes
from zhcached.jobs.fetching.lines import Lines
from zhcached.jobs.fetching.meter import Meter
from zhcached.jobs.fetching.sharing import Origins, Sharing
from zhcached.jobs.fetching.wants import Wants
from zhcached.jobs.stop import Either
from zhcached.sources.base import Tier
from zhcached.sources.health import METADATA, Lied
from zhcached.sources.trust import FileTrust
from zhcached.store.digest import Committed, Promise
from zhcached.store.ingest import Ingest
from zhcached.store.store import Store
from zhcached.swarm.own import OwnTorrents
from zhcached.swarm.tier import Swarm
from zhcached.transport.http import Transport

TICK_S = 0.2

log = structlog.get_logger()


def _no_matter(_first: str, _second: object) -> None:
    pass


class Fetcher:
    """What all jobs share: the store, the line, its rate, the claims, the tiers, what is shown.

    ``disproved`` is told of each source that sent wrong bytes for a sha256, from any thread.
    ``torrents`` are those that this machine is in, or only tells of, ``swarm`` is the site's, if it
    is in one; ``came_by_swarm`` is told of each blob that came by it, and its size.
    """

    def __init__(
        self,
        store: Store,
        transport: Transport,
        config: DownloadConfig,
        health: Health,
        tiers: Sequence[Tier] = (),
    ) -> None:
        self.store = store
        self.torrents: OwnTorrents | None = None
        self.swarm: Swarm | None = None
        self.tiers = tiers
        self.transport = transport
        self.config = config
        self.health = health
        self.limiter = RateLimiter(Rates(config.rate, config.windows, SystemClock().wall))
        self.claims = Claims()
        self.turns = Turns()
        self.lines = Lines(health, health.clock)
        self.wants = Wants()
        self.origins = Origins(health.clock)
        self.disproved: Callable[[str, str], None] = _no_matter
        self.came_by_swarm: Callable[[str, int], None] = _no_matter

    def accused(self, source: str, sha256: str | None) -> list[str]:
        """Returns who lied where ``source`` sent wrong bytes: of a swarm, who told of it."""
        if self.swarm is None or source != self.swarm.name or sha256 is None:
            return [source]
        return self.swarm.accuse(sha256)

    def settled(self, sha256: str) -> None:
        """A fetch of these bytes is over, whatever came of it."""
        if self.swarm is not None and (size := self.swarm.settle(sha256)) is not None:
            self.came_by_swarm(sha256, size)

    def make_room(self, size: int) -> None:
        """Makes sure ``size`` bytes fit, collecting garbage once if they do not.

        Raises:
            NoSpace: They do not fit even so.
        """
        try:
            self.store.space.reserve(size).release()
        except NoSpace:
            freed = self.store.gc(dry_run=False).bytes_freed
            log.info("prefetch.collected", bytes=freed)
            self.store.space.reserve(size).release()


class Gathering:
    """One job's files on their way.

    Attributes:
        committed: The blob of each path that is there.
        fetched: Bytes received, by source; wrong ones included.
        reused: Bytes that were there before.
        doubted: Paths whose second promise, of another kind of digest, did not hold.
        closed: Repositories that are not public and that some of the bytes came for.
    """

    def __init__(
        self, fetcher: Fetcher, brief: Brief, job: str, control: Control, meter: Meter
    ) -> None:
        self._fetcher = fetcher
        self._store = fetcher.store
        self._brief = brief
        self._job = job
        self._control = control
        self._meter = meter
        self._lock = threading.Lock()
        self._twins: dict[str, list[FileTrust]] = defaultdict(list)
        for file in brief.comparison.files:
            self._twins[file.promise.key].append(file)
        self.committed: dict[str, Committed] = {}
        self.fetched: Counter[str] = Counter()
        self.reused = 0
        self.doubted: set[str] = set()
        self.closed: set[str] = set()
        self._sharing = Sharing(brief, fetcher.config, fetcher.health, fetcher.origins)
        self._relying: set[str] = set()

    def run(self) -> None:
        """Brings every file in.

        Raises:
            ZhcacheError: The first error of any file; the others are stopped and keep what came.
        """
        missing = self._missing()
        room = sum(self._store.ingests.room_needed(file.first_promise) for file in missing)
        self._fetcher.make_room(room)
        failed = threading.Event()
        small, large = lanes(missing)
        large = self._sharing.in_order(large)
        with (
            ThreadPoolExecutor(SMALL_AT_ONCE, "small") as many,
            ThreadPoolExecutor(self._fetcher.config.files, "file") as few,
        ):
            waiting = {few.submit(self._one, file, failed) for file in large}
            waiting |= {many.submit(self._one, file, failed) for file in small}
            try:
                self._watch(waiting)
            except BaseException:
                failed.set()
                for future in waiting:
                    future.cancel()
                raise
            finally:
                self._fetcher.lines.settle()

    def trust(self) -> Sequence[FileTrust]:
        """Returns the files with their grades as they stand now that the bytes are there."""
        return [
            msgspec.structs.replace(file, grade="first-use") if file.path in self.doubted else file
            for file in self._brief.comparison.files
        ]

    def _missing(self) -> list[FileTrust]:
        missing: dict[str, FileTrust] = {}
        for file in self._brief.comparison.files:
            self._control.check()
            twin = missing.get(file.promise.key)
            found = None if twin else self._present(file)
            if found is not None:
                self._keep(file, found, file.promise.size)
            elif twin is None:
                missing[file.promise.key] = file
        return list(missing.values())

    def _present(self, file: FileTrust) -> Committed | None:
        found = self._store.presence.find(file.promise, self._job)
        if found is None and file.first_promise != file.promise:
            found = self._store.presence.find(file.first_promise, self._job)
            if found is not None:
                self._doubt(file)
        return found

    def _watch(self, waiting: set[Future[None]]) -> None:
        pending = set(waiting)
        while pending:
            done, pending = wait(pending, TICK_S, FIRST_COMPLETED)
            self._control.progress = self._meter.picture()
            for future in done:
                future.result()
            self._control.check()

    def _one(self, file: FileTrust, failed: threading.Event) -> None:
        structlog.contextvars.bind_contextvars(job=self._job, repo=str(self._brief.repo))
        found, before = self._bring(file, failed)
        if file.promise != file.first_promise and self._store.presence.find(file.promise) is None:
            self._doubt(file)
        self._share(file, found, before)

    def _bring(self, file: FileTrust, failed: threading.Event) -> tuple[Committed, int]:
        rates = self._fetcher.health.rates()
        alike, others = self._brief.offers(file, self._fetcher.config, rates)
        alike, relies = self._sharing.offers(file, alike)
        if relies:
            with self._lock:
                self._relying.add(file.first_promise.key)
        try:
            return self._obtain(file, file.first_promise, alike, failed, may_accuse=True)
        except (SourcesFailed, IntegrityError):
            if not others or file.first_promise == file.promise:
                raise
            # These promise a digest of another kind. Their bytes count only if both promises
            # hold; if they do not, that is another file and no lie.
            return self._obtain(file, file.promise, others, failed, may_accuse=False)

    def _obtain(
        self,
        file: FileTrust,
        promise: Promise,
        offers: Sequence[offer.Offer],
        failed: threading.Event,
        *,
        may_accuse: bool,
    ) -> tuple[Committed, int]:
        """Returns the blob, and how many of its bytes were here before."""
        watcher = self._watcher(file, failed, may_accuse=may_accuse)
        with self._fetcher.claims.hold(promise.key, lambda: _check(watcher.cancelled)):
            # Another job, or a sister file of the same bytes, may have brought it meanwhile.
            found = self._present(file)
            if found is not None:
                return found, file.promise.size
            if not is_small(file) or not offers:
                return self._fetch(file, promise, offers, watcher)
            with self._fetcher.turns.one(offers[0].source, lambda: _check(watcher.cancelled)):
                return self._fetch(file, promise, offers, watcher)

    def _fetch(
        self,
        file: FileTrust,
        promise: Promise,
        offers: Sequence[offer.Offer],
        watcher: offer.Control,
    ) -> tuple[Committed, int]:
        before = 0
        closed = frozenset[str]()
        sha256 = promise.sha256
        origins = self._fetcher.origins

        def begin() -> Ingest:
            nonlocal before, closed
            whose = str(self._brief.repo) if self._brief.is_private else None
            ingest = self._store.intake.begin(promise, self._job, whose)
            before = ingest.received.total
            closed = ingest.closed
            with self._lock:
                self.closed |= closed
            if sha256 is not None and promise.key not in self._relying:
                origins.bring(sha256, promise.size, closed)
            self._meter.begin(file.path, promise.size, before)
            return ingest

        try:
            came = obtain(
                begin,
                offers,
                transport=self._fetcher.transport,
                config=self._fetcher.config,
                limiter=self._fetcher.limiter,
                control=watcher,
            )
            origins.end(came.sha256, came.size, closed)
        except BaseException:
            origins.drop(sha256 or "")
            raise
        finally:
            if sha256 is not None:
                self._fetcher.settled(sha256)
        with self._lock:
            self.fetched.update(came.fetched)
        log.info("file.verified", path=file.path, bytes=came.size, sha256=came.sha256)
        return Committed(came.sha256, came.git_sha1, came.size), before

    def _share(self, file: FileTrust, found: Committed, before: int) -> None:
        for twin in self._twins[file.promise.key]:
            self._keep(twin, found, before if twin.path == file.path else twin.promise.size)

    def _keep(self, file: FileTrust, found: Committed, reused: int) -> None:
        with self._lock:
            self.committed[file.path] = found
            self.reused += reused
        self._meter.finish(file.path, file.promise.size)

    def _doubt(self, file: FileTrust) -> None:
        log.warning("file.first_use", path=file.path, reason="only one source means these bytes")
        with self._lock:
            self.doubted.add(file.path)

    def _watcher(
        self, file: FileTrust, failed: threading.Event, *, may_accuse: bool
    ) -> offer.Control:
        health, lines = self._fetcher.health, self._fetcher.lines
        measured = not is_small(file)

        def on_event(kind: offer.EventKind, sender: offer.Sender, detail: str) -> None:
            source, plane = sender
            log.info("fetch." + kind.replace(" ", "_"), source=source, plane=plane, detail=detail)
            if kind == "lied" and may_accuse:
                for liar in self._fetcher.accused(source, file.promise.sha256):
                    health.observe(liar, Lied(detail), plane if liar == source else METADATA)
                if file.promise.sha256 is not None:
                    self._fetcher.disproved(source, file.promise.sha256)
            if kind in ("lied", "changed"):
                self._meter.restart(file.path)
            self._meter.note = f"{source}: {detail}"

        def on_fault(sender: offer.Sender, error: RemoteError) -> None:
            # Bytes of another promise than the first are no proof against who sent them.
            if may_accuse or not isinstance(error, RemoteInvalid):
                health.failed(sender.source, error, sender.plane)
            if isinstance(error, OtherSizeError) and may_accuse and file.promise.sha256:
                self._fetcher.disproved(sender.source, file.promise.sha256)

        def on_bytes(sender: offer.Sender, count: int) -> None:
            lines.add(sender, count, measured=measured)
            self._meter.add(file.path, sender, count)

        return offer.Control(
            cancelled=Either(self._control.cancelled, failed),
            on_bytes=on_bytes,
            on_event=on_event,
            wanted=lambda: self._fetcher.wants.of(file.first_promise.key),
            on_fault=on_fault,
            on_answer=lines.answered,
            lately=health.rate,
        )


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise Cancelled("the job was cancelled")
