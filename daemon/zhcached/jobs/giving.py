"""Giving: what is fetched here and public is put into the stores of the site, in the background.

One blob at a time. What a store has is not sent: it is asked before, and remembered after, so that
each blob goes there once, whichever machine of the site brought it first. Nothing is written down:
after a restart the store is asked again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from zhcache.errors import ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol.names import parse_repo
from zhcache.protocol.sources import Phrase
from zhcached.clock import Clock
from zhcached.errors import RemoteError
from zhcached.jobs.asking.health import Health
from zhcached.sources.base import Tier
from zhcached.sources.s3 import S3Source
from zhcached.sources.s3_put import SpoiltHereError, Uploads
from zhcached.store import listing
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store

LOOK_EVERY_S = 2.0
BATCH = 64
ASK_S = 5.0
"""Not longer: the daemon's end waits for it."""
FIRST_REST_S = 15.0
LONGEST_REST_S = 1800.0
UNWRITABLE = mark("cannot be written to: {error}")

log = structlog.get_logger()


def given_of(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Yields digest and size of what was fetched of a snapshot; nothing of what was made. Pure."""
    for file in manifest.files:
        if file.converted_from is None:
            yield file.sha256, file.size


@dataclass(slots=True)
class _Target:
    """One store, and what is still to be put there: by digest its size and whose it is.

    ``spoilt`` is what it has, and is proven to be something else.
    """

    source: S3Source
    wanted: dict[str, tuple[int, Manifest]] = field(default_factory=dict[str, tuple[int, Manifest]])
    given: set[str] = field(default_factory=set[str])
    spoilt: set[str] = field(default_factory=set[str])
    failures: int = 0
    due: float = 0.0


class Giving:
    """Puts blobs into stores. ``once`` is called from one thread at a time.

    Args:
        store: What is here.
        tiers: The stores; those that are configured so are written to.
        is_public: Whether a snapshot may be given to everybody by what is known of it.
        health: Told when a store cannot be written to.
        clock: For rests after failures.
        environ: Of the daemon.
    """

    def __init__(
        self,
        store: Store,
        tiers: Sequence[Tier],
        is_public: Callable[[Manifest], bool],
        health: Health,
        clock: Clock,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._store = store
        written = [one for one in tiers if isinstance(one, S3Source) and one.bucket.config.write]
        self._targets = [_Target(one) for one in written]
        self._is_public = is_public
        self._health = health
        self._clock = clock
        self._environ = os.environ if environ is None else environ
        self._seen: dict[tuple[str, str], int] = {}
        self._lies: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._uploads: Uploads | None = None

    async def run(self) -> None:
        """Goes on until cancelled."""
        while self._targets:
            await asyncio.to_thread(self.once)
            await asyncio.sleep(LOOK_EVERY_S)

    def stop(self) -> None:
        """Ends it; an upload under way is abandoned."""
        self._stopped.set()
        with self._lock:
            if self._uploads is not None:
                self._uploads.close()

    def replace(self, source: str, sha256: str) -> None:
        """Has a blob put anew of which a source sent wrong bytes. Thread-safe; waits for nothing.

        What is put is hashed on its way, so that nothing but the right bytes can come of it.
        """
        self._lies.put((source, sha256))

    def once(self) -> int:
        """Looks for what is new and puts it; returns how many blobs were sent."""
        try:
            self._look()
        except (ZhcacheError, OSError) as error:
            log.warning("giving.not_looked", error=str(error))
        return sum(self._give(target) for target in self._targets)

    def _look(self) -> None:
        """Reads the manifests that are new, or have grown; all of them after a lie."""
        self._take_lies()
        for repo, commit, written in listing.fetched(self._store.catalog):
            if self._seen.get((repo, commit)) == written:
                continue
            try:
                manifest = self._store.manifests.read(parse_repo(repo), commit)
            except FileNotFoundError:
                continue
            self._seen[repo, commit] = written
            for target in self._targets:
                if self._may_have(target, manifest):
                    for sha256, size in given_of(manifest):
                        if sha256 not in target.given:
                            target.wanted.setdefault(sha256, (size, manifest))

    def _take_lies(self) -> None:
        while not self._lies.empty():
            source, sha256 = self._lies.get()
            for target in self._targets:
                if target.source.name == source:
                    target.given.discard(sha256)
                    target.spoilt.add(sha256)
                    self._seen.clear()

    def _may_have(self, target: _Target, manifest: Manifest) -> bool:
        is_named = manifest.repo in target.source.bucket.config.entitled
        return is_named or self._is_public(manifest)

    def _give(self, target: _Target) -> int:
        sent = 0
        while target.wanted and not self._stopped.is_set():
            if target.due > self._clock.monotonic():
                break
            batch = list(itertools.islice(target.wanted, BATCH))
            try:
                sent += self._give_batch(target, batch)
            except RemoteError as error:
                if not self._stopped.is_set():
                    self._rest(target, error)
                break
            target.failures = 0
            self._health.note(target.source.name, None)
        return sent

    def _give_batch(self, target: _Target, batch: Sequence[str]) -> int:
        """Puts what of ``batch`` is not there.

        Raises:
            RemoteError: The store cannot be asked or written to; what is left stays wanted.
        """
        for sha256 in target.source.holding(batch, ASK_S) - target.spoilt:
            self._done(target, sha256)
        missing = [sha256 for sha256 in batch if sha256 in target.wanted]
        if not missing:
            return 0
        sent = 0
        with self._opened(target) as uploads:
            for sha256 in missing:
                size, manifest = target.wanted[sha256]
                # Asked again: it may have been closed since, or gone from here.
                if self._may_have(target, manifest) and self._is_sound(sha256, size):
                    sent += self._put(uploads, target, sha256, size)
                # What is not sound now may be mended, and is then published anew.
                target.wanted.pop(sha256, None)
        return sent

    def _put(self, uploads: Uploads, target: _Target, sha256: str, size: int) -> int:
        name = target.source.name
        try:
            uploads.put(sha256, self._store.blobs.path(sha256), size)
        except SpoiltHereError as error:
            log.warning("giving.spoilt", source=name, sha256=sha256, error=str(error))
            return 0
        log.info("giving.put", source=name, sha256=sha256, bytes=size)
        target.spoilt.discard(sha256)
        self._done(target, sha256)
        return 1

    def _is_sound(self, sha256: str, size: int) -> bool:
        try:
            return self._store.presence.is_sound(sha256, size)
        except (ZhcacheError, OSError) as error:
            log.warning("giving.unreadable", sha256=sha256, error=str(error))
            return False

    def _done(self, target: _Target, sha256: str) -> None:
        target.wanted.pop(sha256, None)
        target.given.add(sha256)

    def _opened(self, target: _Target) -> Uploads:
        uploads = Uploads(target.source.bucket, self._environ)
        with self._lock:
            self._uploads = uploads
            if self._stopped.is_set():
                uploads.close()
        return uploads

    def _rest(self, target: _Target, error: RemoteError) -> None:
        wait_s = min(FIRST_REST_S * 2**target.failures, LONGEST_REST_S)
        target.failures = min(target.failures + 1, 10)
        target.due = self._clock.monotonic() + wait_s
        name = target.source.name
        log.warning("giving.failed", source=name, error=str(error), again_s=wait_s)
        self._health.note(name, Phrase(template=UNWRITABLE, values={"error": str(error)}))
