"""Folders walked by descriptor, never by path, so that a planted link cannot lead out of them.

The view is readable by other users and may be writable by a careless one. Whatever stands where a
folder, link or file of ours belongs and is not ours is moved to quarantine, never followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Generator, Sequence
from itertools import count

_serial = count()
Displace = Callable[[int, str], None]


@contextlib.contextmanager
def opened(path: os.PathLike[str]) -> Generator[int]:
    """A descriptor of a folder whose own path is trusted."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def entered(root: int, names: Sequence[str], displace: Displace) -> Generator[int]:
    """A descriptor of the folder ``names`` under ``root``, made where it is not there."""
    fd = os.dup(root)
    try:
        for name in names:
            inner = _enter(fd, name, displace)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def found(root: int, names: Sequence[str]) -> Generator[int | None]:
    """A descriptor of the folder ``names`` under ``root``, or None if there is no such folder."""
    fd: int | None = os.dup(root)
    try:
        for name in names:
            outer = fd
            fd = None
            try:
                fd = _open_folder(outer, name)
            except (FileNotFoundError, NotADirectoryError, OSError):
                break
            finally:
                os.close(outer)
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _open_folder(fd: int, name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)


def _enter(fd: int, name: str, displace: Displace) -> int:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
            return _open_folder(fd, name)
        displace(fd, name)
    os.mkdir(name, 0o750, dir_fd=fd)
    os.fsync(fd)
    return _open_folder(fd, name)


def place_link(fd: int, name: str, target: str, displace: Displace) -> bool:
    """Makes ``name`` a symbolic link to ``target``; tells whether anything had to change."""
    try:
        os.symlink(target, name, dir_fd=fd)
    except FileExistsError:
        pass
    else:
        return True
    is_link = stat.S_ISLNK(os.lstat(name, dir_fd=fd).st_mode)
    if is_link and os.readlink(name, dir_fd=fd) == target:
        return False
    if not is_link:
        displace(fd, name)
    temporary = f".link-{os.getpid()}-{next(_serial)}.tmp"
    os.symlink(target, temporary, dir_fd=fd)
    os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
    return True


def place_file(
    fd: int, name: str, content: bytes, displace: Displace, *, by_way_of: int | None = None
) -> None:
    """Makes ``name`` a file with that content, whole and durable; does nothing if it is so.

    Args:
        fd: The folder.
        name: The file in it.
        content: All of it.
        displace: Moves away what is no file.
        by_way_of: Folder for the temporary file, where readers of ``fd`` list everything.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(name, dir_fd=fd).st_mode):
            displace(fd, name)
        elif read_file(fd, name, len(content) + 1) == content:
            return
    aside = fd if by_way_of is None else by_way_of
    temporary = f".file-{os.getpid()}-{next(_serial)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    out = os.open(temporary, flags, 0o640, dir_fd=aside)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(out, rest) :]
        os.fsync(out)
        os.rename(temporary, name, src_dir_fd=aside, dst_dir_fd=fd)
    except OSError:
        os.unlink(temporary, dir_fd=aside)
        raise
    finally:
        os.close(out)
    os.fsync(fd)


def drop(root: int, chain: Sequence[str], name: str, *, keep: int) -> None:
    """Removes a file or link, and the folders that this leaves empty.

    Args:
        root: Descriptor of the folder that ``chain`` begins in.
        chain: The folders that lead to it.
        name: What to remove; a folder of that name stays.
        keep: How many of the folders stay though they be empty.
    """
    with found(root, chain) as folder:
        if folder is None:
            return
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=folder)
        os.fsync(folder)
    for depth in range(len(chain) - 1, keep - 1, -1):
        with found(root, chain[:depth]) as outer, contextlib.suppress(OSError):
            if outer is not None:
                os.rmdir(chain[depth], dir_fd=outer)


def read_file(fd: int, name: str, limit: int) -> bytes:
    """Returns at most ``limit`` bytes of a regular file; a link is not followed."""
    inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
    try:
        return os.read(inner, limit)
    finally:
        os.close(inner)
