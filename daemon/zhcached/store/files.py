"""Files and folders made durable: the few calls that every part of the store builds on.

A rename is durable only after an fsync of its folder, and a file's bytes only after its own.
Source: fsync(2); https://lwn.net/Articles/457667/
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Generator
from itertools import count
from pathlib import Path

from zhcache.errors import NoSpace, ZhcacheError

_serial = count()
_libc = ctypes.CDLL(None)
_SYNC_FILE_RANGE_WRITE = 2


@contextlib.contextmanager
def disk_errors(where: Path) -> Generator[None]:
    """Turns what the disk says inside into what a user can act on.

    Raises:
        NoSpace: The disk, the disk quota or the file size limit is exhausted.
        ZhcacheError: The disk failed or went read-only.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(
                "no room left on the disk under {where}",
                hint="free some with `zhcache gc`, `zhcache rm REPO`, or move ZHCACHE_HOME",
                where=where,
            ) from error
        if error.errno in (errno.EIO, errno.EROFS):
            raise ZhcacheError(
                "the disk under {where} failed: {reason}",
                hint="look at `dmesg` and run `zhcache doctor`",
                where=where,
                reason=error.strerror,
            ) from error
        raise


def sync_dir(path: Path) -> None:
    """Makes the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, content: bytes, mode: int = 0o640) -> None:
    """Replaces ``path`` whole: a reader, or a power cut, sees the old content or the new.

    Raises:
        NoSpace: No room.
        ZhcacheError: The disk failed.
    """
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}-{next(_serial)}.tmp")
    with disk_errors(path):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            try:
                write_all(fd, content)
                os.fsync(fd)
            finally:
                os.close(fd)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_dir(path.parent)


def write_all(fd: int, content: bytes | memoryview) -> None:
    """Writes all of ``content`` at the descriptor's position."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def write_all_at(fd: int, content: memoryview, offset: int) -> None:
    """Writes all of ``content`` at ``offset``."""
    written = os.pwrite(fd, content, offset)
    while written < len(content):
        written += os.pwrite(fd, content[written:], offset + written)


def start_writeback(fd: int) -> None:
    """Has the disk begin on what was written, so that a later sync has less to wait for.

    Only a hint: it proves nothing, and what goes wrong is told by the sync.

    Source: sync_file_range(2), which Python does not have.
    """
    start, until_end = ctypes.c_int64(0), ctypes.c_int64(0)
    _libc.sync_file_range(fd, start, until_end, _SYNC_FILE_RANGE_WRITE)


def is_temporary(name: str) -> bool:
    """Tells whether ``name`` is a leftover of a write that a crash cut short."""
    return name.startswith(".") and name.endswith(".tmp")
