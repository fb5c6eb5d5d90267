"""What is not words, beside words: bytes in one sealed piece of shared memory.

A memfd with all its seals is safe to map for whoever receives it: nobody can shrink it under the
reader, nor change what has been checked. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence

from zhcache.errors import UsageError

ALIGNMENT = 64
"""Bytes; each piece starts at a multiple, so that any dtype can be viewed in place."""

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""Source: memfd_create(2), fcntl(2)."""


class BlobWriter:
    """Collects pieces and makes one sealed memfd of them."""

    def __init__(self) -> None:
        self._pieces: list[memoryview] = []
        self.bytes = 0

    def add(self, piece: bytes | bytearray | memoryview) -> int:
        """Takes ``piece`` up; returns the offset at which it will lie."""
        offset = -(-self.bytes // ALIGNMENT) * ALIGNMENT
        if offset > self.bytes:
            self._pieces.append(memoryview(bytes(offset - self.bytes)))
        self._pieces.append(memoryview(piece))
        self.bytes = offset + len(piece)
        return offset

    def finish(self) -> list[int]:
        """Returns the memfd's descriptor, the caller's own; none where nothing was added.

        Raises:
            OSError: There is no memory for it.
        """
        if not self._pieces:
            return []
        fd = os.memfd_create("zhcache-values", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            for piece in self._pieces:
                while piece:
                    piece = piece[os.write(fd, piece) :]  # noqa: PLW2901 - what is left of it
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        except BaseException:
            os.close(fd)
            raise
        return [fd]


class BlobReader:
    """Views into a received memfd. The descriptors stay the caller's and may be closed at once.

    Raises:
        UsageError: There is more than one, or it is no sealed memory.
    """

    def __init__(self, fds: Sequence[int]) -> None:
        self._view = memoryview(b"")
        if len(fds) > 1:
            raise UsageError("{count} descriptors came beside the values, not one", count=len(fds))
        if fds:
            self._view = _map(fds[0])

    def piece(self, offset: object, count: object) -> memoryview:
        """Returns ``count`` writable bytes at ``offset``, private to this process.

        Raises:
            UsageError: They are not all there.
        """
        if not isinstance(offset, int) or not isinstance(count, int):
            raise UsageError("the values name bytes by something other than numbers")
        if min(offset, count) < 0 or offset % ALIGNMENT or offset + count > len(self._view):
            raise UsageError("the values name bytes that did not come with them")
        return self._view[offset : offset + count]


def _map(fd: int) -> memoryview:
    try:
        is_sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
    except OSError:
        is_sealed = False
    if not is_sealed:
        raise UsageError("the descriptor beside the values is no sealed memory")
    size = os.fstat(fd).st_size
    if size == 0:
        return memoryview(b"")
    # Copy-on-write: arrays over it may be written to, and the sender never sees it.
    return memoryview(
        mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    )
