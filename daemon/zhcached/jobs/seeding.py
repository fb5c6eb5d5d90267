"""Seeding: what is public here is given to the site's swarm, for as long as it is both.

The hashes of its pieces are made once for each blob, in the background, one blob at a time; what
just came by the swarm goes first, so that a swarm does not lose those that are done with it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final

import structlog

from zhcache.errors import ZhcacheError
from zhcache.protocol.names import parse_repo
from zhcached.clock import Clock
from zhcached.jobs.giving import given_of
from zhcached.store import listing
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store
from zhcached.swarm.own import OwnTorrents
from zhcached.swarm.torrent import MIN_BYTES, hash_pieces

LOOK_EVERY_S: Final = 2.0
FRESH_S: Final = 3600.0
"""How long a blob that came by a swarm is given without a snapshot: its job is still under way."""
AGAIN_S: Final = 600.0
"""A blob that could not be read is left alone for so long."""

log = structlog.get_logger()


class Seeding:
    """Keeps ``OwnTorrents`` to what may be given. ``once`` is called from one thread at a time.

    Args:
        store: What is here.
        own: None where this machine takes part in no swarm.
        is_public: Whether a snapshot may be given to everybody by what is known of it.
        clock: The time.
    """

    def __init__(
        self,
        store: Store,
        own: OwnTorrents | None,
        is_public: Callable[[Manifest], bool],
        clock: Clock,
    ) -> None:
        self._store = store
        self._own = own
        self._is_public = is_public
        self._clock = clock
        self._read: dict[tuple[str, str], tuple[int, Manifest]] = {}
        self._fresh: dict[str, tuple[int, float]] = {}
        self._left_alone: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._woken = threading.Event()

    async def run(self) -> None:
        """Goes on until cancelled."""
        if self._own is None:
            return
        if self._own.process is not None:
            self._own.process.start()
        while not self._stopped.is_set():
            # Before the look: what wakes it meanwhile is not waited for.
            self._woken.clear()
            await asyncio.to_thread(self.once)
            if not self._stopped.is_set():
                await asyncio.to_thread(self._woken.wait, LOOK_EVERY_S)

    def stop(self) -> None:
        """Ends it, and the process with it."""
        self._stopped.set()
        self._woken.set()
        if self._own is not None and self._own.process is not None:
            self._own.process.stop()

    def came(self, sha256: str, size: int) -> None:
        """Gives on what just came by the swarm. Thread-safe; waits for nothing."""
        with self._lock:
            self._fresh[sha256] = (size, self._clock.monotonic() + FRESH_S)
        self._woken.set()

    def once(self) -> None:
        """Looks for what may be given, and gives that and nothing else."""
        if self._own is None or self._stopped.is_set():
            return
        try:
            wanted = self._wanted()
            # What has its hashes begins at once, whatever is still to be read.
            self._own.keep(wanted)
            for sha256, size in wanted.items():
                if self._stopped.is_set():
                    return
                if self._own.hashes_of_whole(sha256) is None and self._hash(sha256, size):
                    self._own.keep(wanted)
            self._own.table.forget(self._own.table.names() - wanted.keys())
        except (ZhcacheError, OSError) as error:
            log.warning("seeding.failed", error=str(error))

    def _wanted(self) -> dict[str, int]:
        """Returns the blobs that may be given and are here, by their sizes; fresh ones first."""
        now = self._clock.monotonic()
        with self._lock:
            self._fresh = {s: one for s, one in self._fresh.items() if one[1] > now}
            wanted = {sha256: size for sha256, (size, _) in self._fresh.items()}
        for manifest in self._manifests():
            if self._is_public(manifest):
                wanted.update({s: size for s, size in given_of(manifest) if size >= MIN_BYTES})
        path = self._store.blobs.path
        return {sha256: size for sha256, size in wanted.items() if path(sha256).exists()}

    def _manifests(self) -> list[Manifest]:
        kept: dict[tuple[str, str], tuple[int, Manifest]] = {}
        for repo, commit, written in listing.fetched(self._store.catalog):
            known = self._read.get((repo, commit))
            if known is None or known[0] != written:
                try:
                    manifest = self._store.manifests.read(parse_repo(repo), commit)
                except FileNotFoundError:
                    continue
                known = (written, manifest)
            kept[repo, commit] = known
        self._read = kept
        return [manifest for _, manifest in kept.values()]

    def _hash(self, sha256: str, size: int) -> bool:
        """Makes and keeps the hashes of a blob's pieces; False where there is no sound blob."""
        assert self._own is not None
        if self._left_alone.get(sha256, 0.0) > self._clock.monotonic():
            return False
        try:
            is_sound = self._store.presence.is_sound(sha256, size)
            path = self._store.blobs.path(sha256)
            hashes = hash_pieces(path, size, self._stopped.is_set) if is_sound else None
        except (ZhcacheError, OSError) as error:
            log.warning("seeding.unreadable", sha256=sha256, error=str(error))
            hashes = None
        if hashes is None:
            self._left_alone[sha256] = self._clock.monotonic() + AGAIN_S
            return False
        self._own.table.save(sha256, size, hashes)
        log.info("seeding.hashed", sha256=sha256, bytes=size)
        return True
