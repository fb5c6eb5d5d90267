"""What the torrent of a blob is. Everything but the hashes of its pieces follows from the blob.

So the same bytes have the same infohash on every machine, and of what somebody tells of a torrent
only these hashes have to be told. They are SHA-1 and prove nothing: the blob's own sha256 does.

Source: BEP 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from zhcached.errors import RemoteInvalid

MIN_BYTES: Final = 4 * 2**20
"""Smaller blobs have none: a request is sooner done than a swarm is found."""
HASH_BYTES: Final = 20
_SHORTEST, _LONGEST = 256 * 2**10, 16 * 2**20
_MOST_PIECES: Final = 1024
"""Up to 16 GiB. More of them would only be told and tallied; longer ones are given on later."""
_READ: Final = 2**20


def piece_length(size: int) -> int:
    """Returns the bytes of a piece of a blob of ``size`` bytes; the last is shorter. Pure."""
    length = _SHORTEST
    while length < _LONGEST and size > length * _MOST_PIECES:
        length *= 2
    return length


def piece_count(size: int) -> int:
    """Returns how many pieces a blob of ``size`` bytes has. Pure."""
    return -(-size // piece_length(size))


def info(sha256: str, size: int, hashes: bytes) -> bytes:
    """Returns the info dictionary, bencoded. Pure."""
    return b"d6:lengthi%de4:name64:%s12:piece lengthi%de6:pieces%d:%se" % (
        size,
        sha256.encode("ascii"),
        piece_length(size),
        len(hashes),
        hashes,
    )


def infohash(sha256: str, size: int, hashes: bytes) -> str:
    """Returns what the torrent is called among those that are in it, in hex. Pure."""
    return hashlib.sha1(info(sha256, size, hashes), usedforsecurity=False).hexdigest()


def check_told(sha256: str, size: int, hashes: bytes, told: str) -> None:
    """Checks the hashes that somebody gives for the infohash that was told.

    Raises:
        RemoteInvalid: They are too few, too many, or others.
    """
    if len(hashes) != piece_count(size) * HASH_BYTES or infohash(sha256, size, hashes) != told:
        raise RemoteInvalid(f"the hashes of pieces that it gives are not those of torrent {told}")


def hash_pieces(path: Path, size: int, is_stopped: Callable[[], bool]) -> bytes | None:
    """Reads a blob and returns the hashes of its pieces; None if it was stopped.

    Raises:
        OSError: It is gone, cannot be read, or has another size.
    """
    length, hashes = piece_length(size), bytearray()
    buffer = memoryview(bytearray(min(_READ, length)))
    with path.open("rb", buffering=0) as file:
        for start in range(0, size, length):
            digest, left = hashlib.sha1(usedforsecurity=False), min(length, size - start)
            while left:
                if is_stopped():
                    return None
                count = file.readinto(buffer[:left])
                if not count:
                    raise OSError(f"{path} is shorter than {size} bytes")
                digest.update(buffer[:count])
                left -= count
            hashes += digest.digest()
        if file.read(1):
            raise OSError(f"{path} is longer than {size} bytes")
    return bytes(hashes)
