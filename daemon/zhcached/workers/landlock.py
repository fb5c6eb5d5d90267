"""Landlock: which files a process may open, by a rule that it puts on itself and cannot take off.

Descriptors that are open already, and memory files, are not touched by it. It holds for every
child. A process under it cannot look into one that is not.

Source: landlock(7), linux/landlock.h; the system calls have the same numbers everywhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST = (1 << 13) - 1
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP_BIND_AND_CONNECT = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3

_READ = _EXECUTE | _READ_FILE | _READ_DIR


def version() -> int:
    """Returns the kernel's Landlock ABI, 0 where there is none or it is switched off."""
    return max(0, _libc().syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION_FLAG))


def restrict(
    *,
    reads: Iterable[Path],
    lists: Iterable[Path] = (),
    writes: Iterable[Path],
    devices: Iterable[Path],
    may_meet: bool = False,
) -> None:
    """Lets this process open nothing but what is below these; what is not there is passed over.

    From ABI 4 TCP is refused, from 6 signals to others and their abstract sockets.

    Args:
        reads: Folders and files that may be read and run.
        lists: Folders of which only the names may be read.
        writes: Folders in which anything may be done.
        devices: What may be read, written and controlled, and not made.
        may_meet: Leaves TCP alone, for a process in a network that is its own.

    Raises:
        OSError: The kernel has no Landlock, or ``no_new_privs`` is not set.
    """
    known = version()
    if known == 0:
        raise OSError(errno.ENOSYS, "the kernel has no Landlock")
    handled = _FIRST
    handled |= _REFER if known >= 2 else 0
    handled |= _TRUNCATE if known >= 3 else 0
    handled |= _IOCTL_DEV if known >= 5 else 0
    words = [handled]
    words += [0 if may_meet else _TCP_BIND_AND_CONNECT] if known >= 4 else []
    words += [_ABSTRACT_SOCKETS_AND_SIGNALS] if known >= 6 else []
    attributes = struct.pack(f"={len(words)}Q", *words)
    ruleset = _checked(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        used = _READ | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
        rules = [(path, _READ) for path in reads] + [(path, _READ_DIR) for path in lists]
        rules += [(path, handled) for path in writes]
        rules += [(path, used & handled) for path in devices]
        for path, rights in rules:
            _allow(ruleset, path, rights)
        _checked(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_A_FILE
        _checked(_ADD, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(number: int, *arguments: object) -> int:
    found = _libc().syscall(number, *arguments)
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found
