"""The hashes of pieces that are known, one file for each blob. May be lost: they are made anew."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from zhcache.protocol.names import is_sha256
from zhcached.store import files
from zhcached.swarm.torrent import HASH_BYTES, infohash, piece_count


class PieceTable:
    """Thread-safe: a file appears whole.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save(self, sha256: str, size: int, hashes: bytes) -> None:
        """Keeps the hashes of a blob's pieces.

        Raises:
            OSError: The disk failed.
        """
        name = bytes.fromhex(infohash(sha256, size, hashes))
        files.write_durably(self._folder / sha256, name + hashes, 0o600)

    def load(self, sha256: str, size: int) -> bytes | None:
        """Returns the hashes; None where they are not known, or no longer what was written."""
        try:
            kept = (self._folder / sha256).read_bytes()
        except OSError:
            return None
        name, hashes = kept[:HASH_BYTES], kept[HASH_BYTES:]
        if len(hashes) != piece_count(size) * HASH_BYTES:
            return None
        return hashes if infohash(sha256, size, hashes) == name.hex() else None

    def names(self) -> set[str]:
        """Returns the blobs of which something is kept."""
        return {entry.name for entry in self._folder.iterdir() if is_sha256(entry.name)}

    def forget(self, blobs: Collection[str]) -> None:
        """Drops what is kept of blobs that are here no more."""
        for sha256 in blobs:
            with contextlib.suppress(OSError):
                (self._folder / sha256).unlink()
