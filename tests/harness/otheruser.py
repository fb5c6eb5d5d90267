"""Another user in front of a daemon: reaches its sockets, not its store."""

from __future__ import annotations

import os

from harness.daemon import Daemon

UID = 4321

BECOME = f"""
import os
os.setgroups([])
os.setgid({UID})
os.setuid({UID})
"""
"""What a script does once it has imported all it needs: the interpreter may be closed to others."""


def let_in(daemon: Daemon) -> None:
    """Has other users reach the daemon's sockets. Its store is as closed to them as ever."""
    for name in ("api.sock", "handover.sock"):
        os.chmod(daemon.socket.with_name(name), 0o666)
    for folder in (daemon.folder, *daemon.folder.parents):
        if "pytest" in str(folder):
            os.chmod(folder, 0o755)
