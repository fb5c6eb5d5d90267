"""Another user in front of a daemon: reaches its sockets, not its store."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.daemon import Daemon

UID = 4321

BECOME = f"""
import os
os.setgroups([])
os.setgid({UID})
os.setuid({UID})
"""
"""What a script does once it has imported all it needs: the interpreter may be closed to others."""


@contextlib.contextmanager
def common_folder() -> Iterator[Path]:
    """Yields a folder that other users may enter; pytest closes its own whenever it starts."""
    with tempfile.TemporaryDirectory(prefix="zhcache-common-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def let_in(daemon: Daemon) -> None:
    """Has other users reach the daemon's sockets. Its store is as closed to them as ever."""
    for name in ("api.sock", "handover.sock"):
        os.chmod(daemon.socket.with_name(name), 0o666)
    os.chmod(daemon.folder, 0o755)


def open_way(folder: Path) -> None:
    """Has other users enter this folder of pytest's and those on the way to it."""
    temporary = Path(tempfile.gettempdir()).resolve()
    for each in (folder, *folder.parents):
        if temporary in each.resolve().parents:
            os.chmod(each, 0o755)
