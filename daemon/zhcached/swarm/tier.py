"""The swarm as a source: who has a blob in it, and how its pieces come.

Thread-safe. What it brings is a stranger's, as from every source.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Final

import structlog

from zhcache.errors import NoSpace, UsageError
from zhcache.protocol.messages import SourceKind
from zhcached.clock import Clock
from zhcached.config import DownloadConfig, SwarmConfig
from zhcached.config.swarming import NAME, swarm_networks, swarm_place
from zhcached.errors import RemoteError, TransportError
from zhcached.fetch.limits import RateLimiter
from zhcached.fetch.nearby import rank
from zhcached.fetch.offer import Control, LeftError, Offer, Receiver, Sender
from zhcached.sources.base import Source
from zhcached.sources.peer import PeerSource
from zhcached.store.space import Reservation
from zhcached.store.store import Store
from zhcached.swarm.coming import Coming, pieces_not_in
from zhcached.swarm.own import OwnTorrents
from zhcached.swarm.process import Process
from zhcached.swarm.table import PieceTable
from zhcached.swarm.told import Told, Torrent
from zhcached.swarm.torrent import MIN_BYTES
from zhcached.swarm.words import Broken, Came, Event, Fetch, Limit, Meet, Opening
from zhcached.transport.address import Origin

ASK_AGAIN_S: Final = 10.0
LONGEST_ASK_AGAIN_S: Final = 60.0
"""Machines that began later are found by this, and those that came back. Each time later: a
thousand machines ask the same gateway."""
DRAW_AFTER_S: Final = 5.0
"""A machine that draws from web seeds leaves a blob to those before it until nothing came for so
long, and as long again for each further one."""
_ASK_S: Final = 3.0

log = structlog.get_logger()


def is_turn(before: int, quiet_s: float, stall_s: float) -> bool:
    """Tells whether to draw a blob from web seeds now. Pure.

    libtorrents that draw the same blob ask for the same stretches, each for itself.

    Args:
        before: Other machines that are to draw it rather than this one.
        quiet_s: How long no byte of it has come, from whom ever.
        stall_s: How long that may last until the swarm is given up, in which case it comes over
            the line in any case.
    """
    return quiet_s >= min(before * DRAW_AFTER_S, stall_s / 2)


class Swarm:
    """See ``base.Tier``; what it has comes by a feed.

    Args:
        config: With an address to listen at.
        store: Where blobs are, and room.
        peers: Who is asked for torrents.
        own: The torrents that this machine is in.
        clock: The time.

    Raises:
        UsageError: libtorrent is not installed.
    """

    kind: SourceKind = "swarm"

    def __init__(
        self,
        config: SwarmConfig,
        store: Store,
        peers: Sequence[PeerSource],
        own: OwnTorrents,
        clock: Clock,
    ) -> None:
        _check_installed()
        self.name = NAME
        address, port = swarm_place(config.listen)
        self.origin = Origin("http", address, port)
        self._plane = f"swarm://{config.listen}"
        self._config = config
        self._store = store
        self._own = own
        self._clock = clock
        self._told = Told(peers)
        if config.web_seed:
            own.drawer = secrets.token_hex(8)
        self._incoming = store.layout.root / "swarm" / "incoming"
        self._coming: dict[str, Coming] = {}
        self._rooms: dict[str, Reservation] = {}
        self._numbers = itertools.count(1)
        self._limit = 0
        self._lock = threading.Lock()
        opening = Opening(
            address=address,
            port=port,
            networks=swarm_networks(config),
            blobs=str(store.layout.blobs),
            incoming=str(self._incoming),
            given=config.rate,
        )
        self.process = own.process = Process(opening, self._heard, own.seeds)

    def probe(self, deadline_s: float) -> None:
        """Tells whether its process runs.

        Raises:
            TransportError: It does not.
        """
        del deadline_s
        if not self.process.port:
            raise TransportError("the process of the swarm does not run")

    def holding(self, digests: Collection[str], deadline_s: float) -> set[str]:
        """Returns those of ``digests`` that some peer says to have whole in a torrent.

        Raises:
            RemoteError: No peer could be asked.
        """
        self.probe(deadline_s)
        return self._told.ask(digests, deadline_s)

    def offer(self, sha256: str, size: int, rate: float | None) -> Offer:
        """Returns how a blob comes."""

        def feed(
            ingest: Receiver, control: Control, config: DownloadConfig, limiter: RateLimiter
        ) -> None:
            self._feed((sha256, size), ingest, control, config, limiter)

        return Offer(source=self.name, rate=rate, is_near=True, feed=feed)

    def settle(self, sha256: str) -> int | None:
        """Lets go of a blob that came, or did not. Returns its size if it is here and came whole.

        It is given on meanwhile from where the process has it, until ``OwnTorrents.keep``.
        """
        with self._lock:
            coming, room = self._coming.pop(sha256, None), self._rooms.pop(sha256, None)
        if room is not None:
            room.release()
        if coming is None:
            return None
        if self._store.blobs.path(sha256).exists():
            return coming.size
        self._own.left(sha256)
        return None

    def accuse(self, sha256: str) -> list[str]:
        """Forgets a torrent of wrong bytes; returns the peers who said that they had it whole."""
        with self._lock:
            coming = self._coming.get(sha256)
        return self._told.disprove(sha256, coming.infohash) if coming else []

    def _feed(
        self,
        blob: tuple[str, int],
        ingest: Receiver,
        control: Control,
        config: DownloadConfig,
        limiter: RateLimiter,
    ) -> None:
        sha256, size = blob
        torrent = self._told.best(sha256)
        if torrent is None or size < MIN_BYTES:
            raise LeftError("no peer has a torrent of it any more")
        coming, room = self._begin(torrent, sha256, size, ingest)
        ask_at, wait_s, on_disk = self._clock.monotonic() + ASK_AGAIN_S, ASK_AGAIN_S, 0
        grew_at = self._clock.monotonic()

        def each() -> None:
            nonlocal ask_at, wait_s, on_disk, grew_at
            self._obey(limiter)
            now = self._clock.monotonic()
            if coming.done > on_disk:
                room.shrink(coming.done - on_disk)
                on_disk, grew_at = coming.done, now
            if self._config.web_seed and not coming.draws:
                before = rank(sha256, self._own.drawer, self._told.drawers())
                if is_turn(before, now - grew_at, config.stall):
                    self._draw(coming)
            if now >= ask_at:
                wait_s = min(2 * wait_s, LONGEST_ASK_AGAIN_S)
                ask_at = now + wait_s
                threading.Thread(target=self._ask_again, args=(coming,), daemon=True).start()

        try:
            sender = Sender(self.name, self._plane)
            coming.bring(ingest, control, config, self._clock, sender, each)
        except BaseException:
            # Nothing more of it is wanted, and half of it is soon nobody's.
            self._own.left(sha256)
            raise

    def _begin(
        self, torrent: Torrent, sha256: str, size: int, ingest: Receiver
    ) -> tuple[Coming, Reservation]:
        """Has the process take what ``ingest`` misses.

        Raises:
            RemoteError: Nobody gives the hashes, the process does not run, or there is no room.
        """
        hashes = self._told.hashes(torrent, sha256, size)
        missing = ingest.missing()
        try:
            room = self._store.space.reserve(missing.total)
        except NoSpace as error:
            raise LeftError(f"no room for a second copy: {error}") from error
        folder = f"{sha256}-{next(self._numbers)}"
        file = self._incoming / folder / sha256
        coming = Coming(sha256, size, torrent.infohash, hashes, file)
        with self._lock:
            before = self._rooms.pop(sha256, None)
            self._coming[sha256], self._rooms[sha256] = coming, room
        if before is not None:
            before.release()
        self.process.tell(Fetch(sha256, size, hashes, folder, pieces_not_in(missing, size)))
        self._own.coming(sha256, size, hashes)
        self._meet(torrent, coming)
        return coming, room

    def _meet(self, torrent: Torrent, coming: Coming) -> None:
        sha256 = coming.sha256
        peers = [address for member in torrent.members for address in member.addresses]
        web: list[str] = []
        if coming.draws:
            web = [url for m in torrent.whole if (url := m.peer.open_address(sha256))]
        self.process.tell(Meet(sha256, peers, web))

    def _draw(self, coming: Coming) -> None:
        coming.draws = True
        torrent = self._told.best(coming.sha256)
        if torrent is not None and torrent.infohash == coming.infohash:
            log.info("swarm.draws", sha256=coming.sha256)
            self._meet(torrent, coming)

    def _ask_again(self, coming: Coming) -> None:
        try:
            self._told.ask([coming.sha256], _ASK_S)
            torrent = self._told.best(coming.sha256)
            if torrent is not None and torrent.infohash == coming.infohash:
                self._meet(torrent, coming)
        except RemoteError as error:
            log.info("swarm.not_asked", sha256=coming.sha256, error=str(error))

    def _obey(self, limiter: RateLimiter) -> None:
        """Passes on how fast bytes may come, which changes with the time of day."""
        rate = limiter.bytes_per_s
        if rate != self._limit:
            self._limit = rate
            self.process.tell(Limit(rate))

    def _heard(self, event: Event | None) -> None:
        if event is None or (isinstance(event, Broken) and not event.sha256):
            self._limit = 0
            with self._lock:
                ended = list(self._coming.values())
            for coming in ended:
                coming.heard(None)
        elif isinstance(event, Came | Broken):
            with self._lock:
                coming = self._coming.get(event.sha256)
            if coming is not None:
                coming.heard(event)


def take_part(
    config: SwarmConfig, store: Store, sources: Sequence[Source], clock: Clock
) -> tuple[OwnTorrents | None, Swarm | None]:
    """Returns the torrents that are told of here, and the swarm that this machine is in, if any.

    Raises:
        UsageError: libtorrent is needed and not installed.
    """
    if not config.enabled:
        return None, None
    own = OwnTorrents(PieceTable(store.layout.root / "swarm" / "pieces"))
    peers = [source for source in sources if isinstance(source, PeerSource)]
    return own, Swarm(config, store, peers, own, clock) if config.listen else None


def _check_installed() -> None:
    if find_spec("libtorrent") is None:
        raise UsageError(
            "[swarm] is enabled, which needs libtorrent",
            hint="where the daemon is installed: pip install 'zhcache[swarm]'",
        )
