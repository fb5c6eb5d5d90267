"""Files in and out of memory, seen from a process that is not the daemon."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from zhcached.residency.pages import pagecache


def in_memory(*paths: Path) -> int:
    """Returns how many bytes of the files are in the page cache."""
    return sum(pagecache.cached_path(path.resolve(), path.stat().st_size) for path in paths)


def mapped_file(address: int) -> str:
    """Returns which file this process has mapped there; "" where there is none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, path = f"{line} ".split(" ", 5)
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return path.strip()
    return ""


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


def lock_limited(bytes_allowed: int = 0) -> list[str]:
    """Returns a command's head: what follows it may lock so many bytes of memory."""
    # The limit, then the capability to pass it (CAP_IPC_LOCK, 14) out of the set that an exec
    # may give back (PR_CAPBSET_DROP, 24), which root has.
    script = (
        "import ctypes, os, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_MEMLOCK, ({bytes_allowed}, {bytes_allowed}))\n"
        "ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", script]
