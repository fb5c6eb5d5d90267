"""Where the spawner's connections come from: down a socket pair, or to a listening socket."""

from __future__ import annotations

import os
import socket
import struct
from typing import Protocol

from zhcache.errors import UsageError
from zhcache.i18n import mark
from zhcached import notify

_UCRED = struct.Struct("3i")


class Door(Protocol):
    """Something to wait at for connections."""

    def fileno(self) -> int:
        """The descriptor to wait for."""
        ...

    def take(self) -> socket.socket | None:
        """Returns who came; None if it was nobody who may.

        Raises:
            EOFError: Nobody will come any more.
        """
        ...


class Control:
    """The daemon that started this spawner; with its end nobody comes any more."""

    def __init__(self, fd: int) -> None:
        self._line = socket.socket(fileno=fd)
        self._line.set_inheritable(False)

    def fileno(self) -> int:
        """As ``Door.fileno``."""
        return self._line.fileno()

    def take(self) -> socket.socket | None:
        """As ``Door.take``."""
        try:
            byte, fds, _, _ = socket.recv_fds(self._line, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise EOFError("the daemon is gone") from error
        if not byte:
            raise EOFError("the daemon is gone")
        return socket.socket(fileno=fds[0]) if fds else None


class Listener:
    """The socket of ``zhcached-workers.socket``: for the daemon's own user, and root."""

    def __init__(self, listening: socket.socket) -> None:
        # Who is at the door may leave before he is let in.
        listening.setblocking(False)
        self._listening = listening

    @classmethod
    def inherited(cls) -> Listener:
        """Takes the socket that the service manager opened.

        Raises:
            UsageError: There is none.
        """
        found = notify.inherited().sockets
        if len(found) != 1:
            raise UsageError(
                mark("the spawner of workers was given {count} sockets, it needs one"),
                hint=mark("start zhcached-workers.socket, not this program"),
                count=len(found),
            )
        return cls(found[0])

    def fileno(self) -> int:
        """As ``Door.fileno``."""
        return self._listening.fileno()

    def take(self) -> socket.socket | None:
        """As ``Door.take``."""
        try:
            channel, _ = self._listening.accept()
        except OSError:
            return None
        raw = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(raw)
        if uid not in (0, os.geteuid()):
            channel.close()
            return None
        return channel
