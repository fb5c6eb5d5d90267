"""Memory that somebody else made and can change no more: sealed memfds at the border.

A descriptor from another process is mapped only when its bytes and its size are settled: a file
that shrinks under a mapping kills its reader, and bytes that change after a check make the check
worthless.

Source: memfd_create(2), fcntl(2) "File Sealing": F_SEAL_WRITE is refused while a writable mapping
exists, so that with the seal set there is none.
"""

from __future__ import annotations

import fcntl
import os

from zhcache.errors import UsageError

MAX_BYTES = 2**30
"""Bytes of one sealed memory that a call brings or gives: hundreds of large images."""

NEEDED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def size_of(fd: int, limit: int = MAX_BYTES) -> int:
    """Returns the bytes of a sealed memfd.

    Raises:
        UsageError: It is none, it is not sealed against writing and resizing, or it is larger
            than ``limit``.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise UsageError(
            "a descriptor is no memfd: {reason}",
            hint="hand over memory of memfd_create(2) with MFD_ALLOW_SEALING",
            reason=error.strerror,
        ) from error
    if seals & NEEDED != NEEDED:
        raise UsageError(
            "a memfd is not sealed against writing, shrinking and growing",
            hint="set F_SEAL_WRITE, F_SEAL_SHRINK and F_SEAL_GROW before it is sent",
        )
    size = os.fstat(fd).st_size
    if size > limit:
        raise UsageError(
            "a memfd has {size} bytes, the limit is {limit}",
            hint="give the call fewer or smaller images",
            size=size,
            limit=limit,
        )
    return size
