"""A network of one's own: a namespace with nothing in it but its loopback.

The libraries by which processes share an image meet over TCP. Here they may: from such a namespace
no address can be reached but this process's own and its children's, and nobody reaches in.

Source: network_namespaces(7), user_namespaces(7), netdevice(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from zhcache.errors import ZhcacheError

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_INTERFACE = struct.Struct("16sh14x")
_LOOPBACK = b"lo"


def enter() -> None:
    """Moves this process, which has one thread, into a network with nothing but loopback.

    Where none can be made, one that has nothing else already will do, such as that of a service
    with a private network.

    Raises:
        ZhcacheError: The kernel refuses, and there is more than loopback here.
    """
    try:
        _leave()
        _raise_loopback()
    except OSError as error:
        if has_only_loopback():
            with contextlib.suppress(OSError):
                _raise_loopback()
                return
        raise ZhcacheError(
            "a worker gets no network of its own here, in which several devices could share an"
            " image: {reason}",
            hint=(
                "let zhcache's user make namespaces: sysctl user.max_user_namespaces,"
                " user.max_net_namespaces, kernel.unprivileged_userns_clone,"
                " kernel.apparmor_restrict_unprivileged_userns;"
                " in a container --cap-add SYS_ADMIN; placement='replicate' needs none of it"
            ),
            reason=error.strerror or str(error),
        ) from error


def has_only_loopback() -> bool:
    """Whether no interface but loopback is in this process's network."""
    lines = Path("/proc/self/net/dev").read_bytes().splitlines()
    return [line.partition(b":")[0].strip() for line in lines[2:]] == [_LOOPBACK]


def _leave() -> None:
    try:
        _unshare(_CLONE_NEWNET)
    except PermissionError:
        uid, gid = os.geteuid(), os.getegid()
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        # Itself and nobody else: files and signals are judged as before.
        Path("/proc/self/uid_map").write_bytes(f"{uid} {uid} 1".encode())
        Path("/proc/self/setgroups").write_bytes(b"deny")
        Path("/proc/self/gid_map").write_bytes(f"{gid} {gid} 1".encode())


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        # As the kernel says that a limit is reached, of disks there is no talk.
        is_limit = number == errno.ENOSPC
        words = "the limit of namespaces is reached" if is_limit else os.strerror(number)
        raise OSError(number, words)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        found = fcntl.ioctl(asking, _SIOCGIFFLAGS, _INTERFACE.pack(_LOOPBACK, 0))
        _, flags = _INTERFACE.unpack(found)
        if not flags & _IFF_UP:
            fcntl.ioctl(asking, _SIOCSIFFLAGS, _INTERFACE.pack(_LOOPBACK, flags | _IFF_UP))
