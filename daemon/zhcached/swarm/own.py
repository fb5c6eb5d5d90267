"""The torrents that this machine is in: of blobs that are here, and of those that are coming.

What may be told of them is for the gateway to say, who knows what is public.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from zhcache.protocol.peers import PeerTorrent
from zhcached.errors import TransportError
from zhcached.swarm.process import Process
from zhcached.swarm.table import PieceTable
from zhcached.swarm.torrent import infohash
from zhcached.swarm.words import Command, Drop, Seed


@dataclass(frozen=True, slots=True)
class _Known:
    size: int
    infohash: str
    hashes: bytes
    is_whole: bool


class OwnTorrents:
    """Thread-safe.

    Args:
        table: Where the hashes of pieces are kept.

    Attributes:
        drawer: This machine's name among those that draw from web seeds; empty if it does not.
    """

    def __init__(self, table: PieceTable) -> None:
        self.table = table
        self.drawer = ""
        self.process: Process | None = None
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """Where pieces are given; 0 where none are."""
        return self.process.port if self.process is not None else 0

    def told(self, digests: Collection[str]) -> dict[str, PeerTorrent]:
        """Returns those torrents of ``digests`` that this machine is in."""
        with self._lock:
            found = {sha256: self._known[sha256] for sha256 in digests if sha256 in self._known}
        return {
            sha256: PeerTorrent(infohash=one.infohash, whole=one.is_whole)
            for sha256, one in found.items()
        }

    def hashes(self, sha256: str) -> bytes | None:
        """Returns the hashes of a torrent's pieces."""
        with self._lock:
            known = self._known.get(sha256)
        return known.hashes if known is not None else None

    def hashes_of_whole(self, sha256: str) -> bytes | None:
        """Returns the hashes of a torrent of which the blob is here; None if there is none yet."""
        with self._lock:
            known = self._known.get(sha256)
        return known.hashes if known is not None and known.is_whole else None

    def coming(self, sha256: str, size: int, hashes: bytes) -> None:
        """A blob is being taken from a swarm; it may be another than was told."""
        with self._lock:
            self._known[sha256] = _of(sha256, size, hashes, is_whole=False)

    def left(self, sha256: str) -> None:
        """It is not being taken any more, and is not here."""
        with self._lock:
            known = self._known.get(sha256)
            if known is None or known.is_whole:
                return
            del self._known[sha256]
        self._tell(Drop(sha256))

    def keep(self, blobs: Mapping[str, int]) -> None:
        """Gives these blobs, by their sizes, as far as the hashes of their pieces are known.

        Others that are here whole are given no more.
        """
        with self._lock:
            gone = [s for s, one in self._known.items() if one.is_whole and s not in blobs]
            for sha256 in gone:
                del self._known[sha256]
            new = [s for s in blobs if s not in self._known or not self._known[s].is_whole]
        for sha256 in gone:
            self._tell(Drop(sha256))
        for sha256 in new:
            hashes = self.table.load(sha256, blobs[sha256])
            if hashes is None:
                continue
            known = _of(sha256, blobs[sha256], hashes, is_whole=True)
            with self._lock:
                self._known[sha256] = known
            self._tell(Seed(sha256, known.size, hashes))

    def seeds(self) -> list[Seed]:
        """Returns what a process that has just begun is to give."""
        with self._lock:
            return [
                Seed(sha256, one.size, one.hashes)
                for sha256, one in self._known.items()
                if one.is_whole
            ]

    def _tell(self, command: Command) -> None:
        if self.process is None:
            return
        try:
            self.process.tell(command)
        except TransportError:
            # The next one begins with ``seeds``.
            return


def _of(sha256: str, size: int, hashes: bytes, *, is_whole: bool) -> _Known:
    return _Known(size, infohash(sha256, size, hashes), hashes, is_whole)
