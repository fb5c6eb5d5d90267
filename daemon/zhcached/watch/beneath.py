"""Files and folders below a watched folder, opened name by name so that no link leads out of it.

Whoever may write there could otherwise have the daemon read what only the daemon may read. Nor is
anything opened that is no plain file: opening a device or a pipe has effects of its own.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from zhcache.errors import NotFound, NotPermitted, UsageError, ZhcacheError
from zhcache.protocol.names import printable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_root(folder: Path) -> int:
    """Returns a descriptor of the watched folder itself, whose own path is trusted.

    Raises:
        NotFound: There is no such folder.
        NotPermitted: This daemon may not read it.
        ZhcacheError: The disk failed.
    """
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise explain(folder, error) from error
    return root


def check_readable(folder: Path) -> None:
    """Checks that this daemon can list a folder.

    Raises:
        NotFound: There is no such folder.
        NotPermitted: This daemon may not read it.
        ZhcacheError: The disk failed.
    """
    root = open_root(folder)
    try:
        with os.scandir(root) as entries:
            next(entries, None)
    except OSError as error:
        raise explain(folder, error) from error
    finally:
        os.close(root)


def open_folder(fd: int, name: str) -> int:
    """Returns a descriptor of the folder ``name`` in ``fd``; a link is none.

    Raises:
        OSError: There is none, or it cannot be read.
    """
    if name in ("", ".", ".."):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
    return os.open(name, _FOLDER, dir_fd=fd)


def open_file(root: int, path: str) -> int:
    """Returns a descriptor, open for reading, of a plain file below ``root``.

    Raises:
        OSError: There is none, or it cannot be read.
        UsageError: Something on the way is a link, or the end is no plain file.
    """
    *parents, name = path.split("/")
    folder = os.dup(root)
    try:
        for parent in parents:
            inner = open_folder(folder, parent)
            os.close(folder)
            folder = inner
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        if not stat.S_ISREG(os.fstat(held).st_mode):
            raise UsageError("{path} is no plain file", path=printable(path))
        # The very inode that was looked at, whatever its name leads to by now.
        return os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(held)


def read_file(root: int, path: str, limit: int) -> bytes:
    """Returns at most ``limit`` bytes of a plain file below ``root``.

    Raises:
        OSError: There is none, or it cannot be read.
        UsageError: It is no plain file.
    """
    fd = open_file(root, path)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def explain(folder: Path, error: OSError) -> ZhcacheError:
    """Returns what a user can do about a folder that cannot be opened."""
    shown = printable(str(folder), 400).strip("'")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(
            "there is no folder {folder}",
            hint="make it, or mount the disk that it is on",
            folder=shown,
        )
    if isinstance(error, PermissionError):
        return NotPermitted(
            "the daemon, uid {uid}, cannot read {folder}",
            hint="let its user read the folder and pass through those above it; under systemd"
            " also look at ProtectHome in docs/watch.md",
            uid=os.geteuid(),
            folder=shown,
        )
    return ZhcacheError(
        "{folder} cannot be read: {reason}", folder=shown, reason=error.strerror or error
    )
