"""The sockets the daemon listens on: made so that nobody else's stands in their place.

A socket is bound under a temporary name with its final mode and renamed into place, so there is
no moment at which it is open to more users than meant. What stands there already is asked first:
one that answers belongs to a living daemon; one that does not is removed; anything that is no
socket is refused, because it is not ours to delete.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from zhcache.errors import AlreadyRunning, NotPermitted
from zhcache.paths import SERVICE_SOCKET

BACKLOG = 1024
MODE_USER = 0o600
MODE_SERVICE = 0o660


def bind(path: Path) -> socket.socket:
    """Returns a listening socket at ``path``.

    Raises:
        AlreadyRunning: Somebody answers there.
        NotPermitted: Something that is no socket stands there, or another user's.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _clear(path)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # sun_path holds 108 bytes; through the folder's descriptor any path fits.
    temporary = f"{path.name}.{os.getpid()}"
    try:
        old = os.umask(0o777 & ~mode_of(path))
        try:
            listener.bind(f"/proc/self/fd/{folder}/{temporary}")
        finally:
            os.umask(old)
        listener.listen(BACKLOG)
        os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


def mode_of(path: Path) -> int:
    """Returns the socket's mode: the service's group may call it, a user's own daemon is his."""
    return MODE_SERVICE if path.parent == SERVICE_SOCKET.parent else MODE_USER


def remove(path: Path, identity: os.stat_result | None) -> None:
    """Removes our own socket at the end, and no other that has taken its name since."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if identity and (found.st_dev, found.st_ino) == (identity.st_dev, identity.st_ino):
        path.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
        raise NotPermitted(
            "{path} is in the way: it is not a socket of this user's",
            hint="look at it and remove it, or choose another place with --socket",
            path=path,
        )
    if answers(path):
        raise AlreadyRunning(
            "a daemon answers on {path} already",
            hint="zhcache daemon status shows it; zhcache daemon stop ends it",
            path=path,
        )
    path.unlink(missing_ok=True)


def answers(path: Path) -> bool:
    """Tells whether somebody accepts connections at ``path``."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError as error:
        # A full backlog means that somebody listens.
        return error.errno == errno.EAGAIN
    finally:
        os.close(folder)
    return True
