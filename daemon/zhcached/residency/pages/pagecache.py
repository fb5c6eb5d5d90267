"""The kernel's page cache: what of a file is in memory, and how it gets there.

Nothing here keeps pages in; ``holder`` does that. Thread-safe, blocking.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

PAGE = mmap.PAGESIZE
STEP = 8 * 2**20
"""Bytes read at a time: enough for the disk's full rate, little enough to be cancelled between."""

_CALL_STEP = 2**30
_NR_CACHESTAT = 451

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_libc.syscall.argtypes = [
    ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long,
]  # fmt: skip
_libc.mlock.argtypes = _libc.munlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


class Mapping:
    """A file mapped for reading; its pages are touched by nobody but ``lock``.

    Args:
        fd: The file, which may be closed afterwards.
        size: Its bytes, at least one.

    Raises:
        OSError: It cannot be mapped.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise _last_error("mmap")
        self._address: int = address

    def lock(self) -> None:
        """Keeps all of its pages in memory until it is closed.

        Raises:
            OSError: ``RLIMIT_MEMLOCK`` forbids it, or memory is short; nothing stays locked.
        """
        for start in range(0, self.size, _CALL_STEP):
            length = min(_CALL_STEP, self.size - start)
            if _libc.mlock(self._address + start, length) != 0:
                failed = _last_error("mlock")
                _libc.munlock(self._address, self.size)
                raise failed

    def cached(self) -> int:
        """Returns how many of its bytes are in memory.

        The kernel tells it of files of our own user alone, and says "all" of others.
        Source: mincore(2), since Linux 5.2.

        Raises:
            OSError: The kernel does not tell.
        """
        found = 0
        for start in range(0, self.size, _CALL_STEP):
            pages = -(-min(_CALL_STEP, self.size - start) // PAGE)
            seen = ctypes.create_string_buffer(pages)
            if _libc.mincore(self._address + start, pages * PAGE, seen) != 0:
                raise _last_error("mincore")
            found += sum(byte & 1 for byte in seen.raw)
        return min(found * PAGE, self.size)

    def close(self) -> None:
        """Lets the pages go; a second call does nothing."""
        if self._address:
            _libc.munmap(self._address, self.size)
            self._address = 0


def cached(fd: int, size: int, offset: int = 0) -> int:
    """Returns how many of ``size`` bytes at ``offset`` of a file are in memory.

    Source: cachestat, Linux 6.5. Where it is missing, or a container forbids it, the file is mapped
    and mincore asked, for which ``offset`` must be 0.

    Raises:
        OSError: The kernel does not tell.
    """
    if size == 0:
        return 0
    wanted, counts = _Range(offset, size), _Counts()
    if _libc.syscall(_NR_CACHESTAT, fd, ctypes.byref(wanted), ctypes.byref(counts), 0) == 0:
        return min(int(counts.cached) * PAGE, size)
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
        raise _last_error("cachestat")
    mapping = Mapping(fd, offset + size)
    try:
        return mapping.cached() if offset == 0 else 0
    finally:
        mapping.close()


def cached_path(path: Path, size: int) -> int:
    """Returns how many bytes of the file at ``path`` are in memory, 0 where it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return cached(fd, size)
    finally:
        os.close(fd)


def read_in(fd: int, size: int, on_bytes: Callable[[int], object]) -> None:
    """Reads into memory what of the file is not there yet.

    Args:
        fd: The file.
        size: Its bytes.
        on_bytes: Told the bytes of each step, those that were there included; may raise.

    Raises:
        OSError: The disk failed.
        EOFError: The file is shorter than ``size``.
    """
    buffer = bytearray(min(STEP, size))
    for start in range(0, size, STEP):
        length = min(STEP, size - start)
        if cached(fd, length, start) < length:
            # The next step's bytes come from the disk while this one's are copied.
            os.posix_fadvise(fd, start + length, STEP, os.POSIX_FADV_WILLNEED)
            _touch(fd, memoryview(buffer)[:length], start)
        on_bytes(length)


def _touch(fd: int, target: memoryview, offset: int) -> None:
    done = 0
    while done < len(target):
        count = os.preadv(fd, [target[done:]], offset + done)
        if count == 0:
            raise EOFError(f"the file ends at {offset + done}")
        done += count


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
