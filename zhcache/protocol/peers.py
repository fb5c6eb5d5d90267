"""What one daemon's gateway tells another: the peer protocol, under ``/zhcache/v1/``.

Bytes are asked for by digest alone: ``GET blobs/<sha256>``, with ranges. Whoever asks believes
nothing of it: what comes has to hash to what a hub or a lock file promised.
"""

from __future__ import annotations

from zhcache.protocol.base import Message
from zhcache.protocol.messages import LockedFile

PREFIX = "/zhcache/v1"
MAX_DIGESTS = 100
"""In one question; so many fit into the longest request line that servers take."""
MAX_NODE = 64
"""Characters of a peer's name that count."""


class PeerModel(Message):
    """``GET models/{repo}?revision=``: what the peer has, without asking anybody.

    ``complete`` is False where it lacks files that the hub lists. ``private`` is True where not
    everybody may have it, and this peer was told to give it all the same.
    """

    repo: str
    revision: str
    commit: str
    files: list[LockedFile]
    complete: bool = True
    private: bool = False
    schema: int = 1


class PeerTorrent(Message):
    """A torrent that a peer is in: its infohash in hex, and whether the peer has it whole."""

    infohash: str
    whole: bool = True


class PeerTorrents(Message):
    """``GET torrents?sha256=A,B``: which torrents of them the peer is in, and at which port.

    A port of 0: it gives pieces to nobody, and says only what the torrents are. The hashes of a
    torrent's pieces, 20 bytes each, are at ``torrents/<sha256>``. ``drawer`` is a name of the
    peer's own if it draws from web seeds, a new one with each start.
    """

    port: int
    torrents: dict[str, PeerTorrent]
    schema: int = 1
    drawer: str = ""


class PeerBlobs(Message):
    """``GET blobs?sha256=A,B``: which of them the peer would send, with their sizes in bytes.

    ``coming`` are those that it brings from a hub now, which can be read as they come, not proven
    yet, at ``coming/<sha256>``: a path of its own, since caches keep what is under ``blobs``.
    ``node`` is the peer's name among its peers, another with each start.
    """

    sizes: dict[str, int]
    coming: dict[str, int] = {}
    node: str = ""
    schema: int = 1
