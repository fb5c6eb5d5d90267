"""Files in and out of memory, seen from a process that is not the daemon."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from zhcached.residency import pagecache


def in_memory(*paths: Path) -> int:
    """Returns how many bytes of the files are in the page cache."""
    return sum(pagecache.cached_path(path.resolve(), path.stat().st_size) for path in paths)


def drop(*paths: Path) -> None:
    """Has the kernel forget the files' pages, those apart that are dirty, mapped or locked."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def can_drop(folder: Path) -> bool:
    """Tells whether pages of a file in ``folder`` leave memory when asked; on tmpfs none do."""
    probe = folder / "droppable"
    probe.write_bytes(b"x" * 2**16)
    drop(probe)
    return in_memory(probe) == 0


UNLOCKABLE = [
    sys.executable,
    "-c",
    # No right to lock memory, for root neither: the limit, then the capability (CAP_IPC_LOCK, 14)
    # out of the set that an exec may give back (PR_CAPBSET_DROP, 24).
    "import ctypes, os, resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
    "ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])",
]
"""A command's head: what follows it runs without the right to lock memory."""
