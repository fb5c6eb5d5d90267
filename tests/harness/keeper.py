"""A stand-in for the service manager's descriptor store, around a real daemon.

It takes what the daemon sends with FDSTORE=1, keeps it while no daemon lives, and hands it to the
next one as systemd does. Source: sd_pid_notify_with_fds(3), sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

from harness.daemon import Daemon, until

_MAX_FDS = 16
_BEGIN = """
import os, sys
kept = [int(fd) for fd in sys.argv[1].split(",") if fd]
high = [os.dup2(fd, 500 + n, inheritable=False) for n, fd in enumerate(kept)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "zhcached"])
"""


class Keeper:
    """Starts one daemon after another over the same store.

    Attributes:
        kept: Descriptors by name.
        stored: How often a daemon gave one into its keeping.
    """

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.kept: dict[str, int] = {}
        self.stored = 0
        self._address = daemon.folder / "notify.sock"
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(self._address))
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self) -> None:
        """Starts a daemon with all that is kept."""
        names, fds = list(self.kept), list(self.kept.values())
        handed = {
            "NOTIFY_SOCKET": str(self._address),
            "LISTEN_FDS": str(len(fds)),
            "LISTEN_FDNAMES": ":".join(names),
        }
        with self.daemon.log.open("ab") as log:
            self.daemon.process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, ",".join(map(str, fds))],
                stdout=log,
                stderr=log,
                env=self.daemon.environ | handed,
                pass_fds=fds,
                start_new_session=True,
            )
        until(
            lambda: (
                self.daemon.socket.exists()
                and self.daemon.cli("daemon", "status", check=False).returncode == 0
            ),
            "the daemon answers",
        )

    def close(self) -> None:
        """Forgets everything."""
        self._channel.close()
        while self.kept:
            os.close(self.kept.popitem()[1])

    def _listen(self) -> None:
        while True:
            try:
                text, fds, _, _ = socket.recv_fds(self._channel, 1 << 16, _MAX_FDS)
            except OSError:
                return
            told = dict(line.split("=", 1) for line in text.decode().splitlines() if "=" in line)
            name = told.get("FDNAME", "stored")
            if told.get("FDSTORE") == "1" and fds:
                self.kept[name] = fds.pop(0)
                self.stored += 1
            elif told.get("FDSTOREREMOVE") == "1" and name in self.kept:
                os.close(self.kept.pop(name))
            for fd in fds:
                os.close(fd)
