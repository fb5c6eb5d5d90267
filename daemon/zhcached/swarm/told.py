"""What peers tell of torrents: which there are, who has them whole, and the hashes of their pieces.

Nothing of it is believed: a torrent that somebody made up costs a blob of wrong bytes, which its
own digest finds, and then those that had it whole are liars.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import structlog

from zhcache.protocol.peers import PeerTorrents
from zhcached.errors import RemoteError, StatusError, TransportError
from zhcached.sources.peer import PeerSource
from zhcached.swarm.torrent import HASH_BYTES, check_told, piece_count
from zhcached.transport.address import literal
from zhcached.transport.dial import system_resolver

HASHES_S = 10.0
_SLACK_S = 0.2

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Member:
    """A peer that is in a torrent, at these addresses, or that only knows it (none)."""

    peer: PeerSource
    is_whole: bool
    addresses: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Torrent:
    """One torrent that peers tell of. A blob has one, unless somebody lies."""

    infohash: str
    members: tuple[Member, ...]

    @property
    def whole(self) -> list[Member]:
        """Those that say that they have all of it."""
        return [member for member in self.members if member.is_whole]


@dataclass(slots=True)
class Told:
    """What was told. Thread-safe.

    Args:
        peers: Who is asked.
    """

    peers: Sequence[PeerSource]
    _known: dict[str, dict[str, Torrent]] = field(default_factory=dict[str, dict[str, Torrent]])
    _disproved: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    _drawers: set[str] = field(default_factory=set[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, digests: Collection[str], deadline_s: float) -> set[str]:
        """Asks all peers, and returns of which blobs somebody has a whole torrent.

        Raises:
            RemoteError: Nobody could be asked.
        """
        arrived: queue.Queue[tuple[PeerSource, PeerTorrents | RemoteError]] = queue.Queue()

        def work(peer: PeerSource) -> None:
            try:
                arrived.put((peer, _asked(peer, digests, deadline_s)))
            except RemoteError as error:
                arrived.put((peer, error))

        for peer in self.peers:
            # Daemon threads: one that hangs must not keep the process from ending.
            threading.Thread(target=work, args=(peer,), name="torrents", daemon=True).start()
        until = time.monotonic() + deadline_s + _SLACK_S
        said: list[tuple[PeerSource, PeerTorrents]] = []
        failure: RemoteError | None = None
        for _ in self.peers:
            try:
                peer, answer = arrived.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                failure = failure or TransportError("no answer in time")
                break
            if isinstance(answer, RemoteError):
                failure = answer
            else:
                said.append((peer, answer))
        if failure is not None and not said:
            raise failure
        return self._take(digests, said)

    def best(self, sha256: str) -> Torrent | None:
        """Returns the torrent of a blob that most have whole; None if nobody has one."""
        with self._lock:
            able = [one for one in self._known.get(sha256, {}).values() if one.whole]
        return max(able, key=lambda one: (len(one.whole), one.infohash), default=None)

    def drawers(self) -> set[str]:
        """Returns the peers that draw from web seeds, as far as they answered the last question."""
        with self._lock:
            return set(self._drawers)

    def hashes(self, torrent: Torrent, sha256: str, size: int) -> bytes:
        """Returns the hashes of a torrent's pieces, from the first that gives them.

        Raises:
            RemoteError: Nobody does.
        """
        failure: RemoteError = TransportError("nobody has the torrent whole any more")
        for member in torrent.whole:
            try:
                hashes = member.peer.piece_hashes(sha256, piece_count(size) * HASH_BYTES, HASHES_S)
                check_told(sha256, size, hashes, torrent.infohash)
            except RemoteError as error:
                failure = error
            else:
                return hashes
        raise failure

    def disprove(self, sha256: str, infohash: str) -> list[str]:
        """Never tries a torrent again; returns who had said to have it whole."""
        with self._lock:
            torrent = self._known.get(sha256, {}).pop(infohash, None)
            self._disproved.add((sha256, infohash))
        return [member.peer.name for member in torrent.whole] if torrent else []

    def _take(
        self, digests: Collection[str], said: Sequence[tuple[PeerSource, PeerTorrents]]
    ) -> set[str]:
        found: dict[str, dict[str, list[Member]]] = defaultdict(lambda: defaultdict(list))
        for peer, answer in said:
            addresses = _addresses(peer, answer.port)
            for sha256, one in answer.torrents.items():
                if sha256 in digests and (sha256, one.infohash) not in self._disproved:
                    found[sha256][one.infohash].append(Member(peer, one.whole, addresses))
        with self._lock:
            self._drawers = {answer.drawer for _, answer in said if answer.drawer}
            for sha256 in digests:
                self._known[sha256] = {
                    name: Torrent(name, tuple(members))
                    for name, members in found.get(sha256, {}).items()
                }
        return {sha256 for sha256 in digests if self.best(sha256) is not None}


def _asked(peer: PeerSource, digests: Collection[str], deadline_s: float) -> PeerTorrents:
    try:
        return peer.torrents(digests, deadline_s)
    except StatusError as error:
        if error.status == 404:
            # An earlier zhcached, or one that takes part in no swarm.
            return PeerTorrents(port=0, torrents={})
        raise


def _addresses(peer: PeerSource, port: int) -> tuple[tuple[str, int], ...]:
    """Returns where a peer's process listens: at the machine that its gateway is."""
    if not 0 < port < 65536:
        return ()
    host = peer.origin.host
    if literal(host) is not None:
        return ((host, port),)
    try:
        return tuple((str(found), port) for found in system_resolver(host, port))
    except (RemoteError, OSError) as error:
        log.warning("swarm.no_address", peer=peer.name, error=str(error))
        return ()
