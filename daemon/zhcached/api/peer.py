"""Who is calling, by the kernel's word alone.

Uid and pid come from SO_PEERCRED as integers and from nowhere else: no header, no field of a
body. A pid alone may be another process tomorrow, so it travels with its start time.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_UCRED = struct.Struct("3i")
_START_TIME_FIELD = 19  # field 22 of proc(5) stat, counted after the command's closing bracket


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end. ``pid_start`` is in clock ticks since boot, 0 if unseen."""

    uid: int
    gid: int
    pid: int
    pid_start: int

    @property
    def may_all(self) -> bool:
        """Whether the caller may act on other users' things: root and the daemon's own user."""
        return self.uid in (0, os.geteuid())


def of_socket(channel: socket.socket) -> Peer:
    """Returns who connected ``channel``."""
    raw = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(uid, gid, pid, start_time(pid))


def start_time(pid: int) -> int:
    """Returns when ``pid`` started, in clock ticks since boot; 0 if it cannot be seen."""
    if pid <= 0:
        return 0
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        return int(stat.rpartition(")")[2].split()[_START_TIME_FIELD])
    except (OSError, ValueError, IndexError):
        return 0
