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


class PeerBlobs(Message):
    """``GET blobs?sha256=A,B``: which of them the peer would send, with their sizes in bytes."""

    sizes: dict[str, int]
    schema: int = 1
