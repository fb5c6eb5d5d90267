"""Who is calling, by the kernel's word alone.

Uid and pid come from SO_PEERCRED as integers and from nowhere else: no header, no field of a
body.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as it was when it connected."""

    uid: int
    gid: int
    pid: int

    @property
    def may_all(self) -> bool:
        """Whether the caller may act on other users' things: root and the daemon's own user."""
        return self.uid in (0, os.geteuid())


def of_socket(channel: socket.socket) -> Peer:
    """Returns who connected ``channel``."""
    raw = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(uid, gid, pid)
