"""A stand-in for the service manager: it hears notifications and keeps descriptors by name."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from harness.daemon import DEADLINE_S, until

# LISTEN_PID names the process that is meant, so it is set after the fork.
LAUNCH = """
import fcntl, os, sys
given = [int(word) for word in sys.argv[2].split()]
# First out of the way of 3, 4, ..., which are about to be overwritten.
moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 3 + len(given) + max(given, default=0)) for fd in given]
for number, fd in enumerate(moved, start=3):
    os.dup2(fd, number, inheritable=True)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(given))
os.environ["LISTEN_FDNAMES"] = sys.argv[1]
os.execv(sys.executable, [sys.executable, "-m", "zhcached"])
"""


class Manager:
    """Keeps what it is given over the daemon's restarts, as systemd's FileDescriptorStore does."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.kept: list[tuple[str, int]] = []
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            said, fds, _, _ = socket.recv_fds(self._socket, 4096, 16)
            if said == b"end":
                return
            lines = said.decode().splitlines()
            names = [line.partition("=")[2] for line in lines if line.startswith("FDNAME=")]
            with self._lock:
                self.heard += lines
                if "FDSTORE=1" in lines:
                    assert "FDPOLL=0" in lines
                    self.kept += [(names[0], fd) for fd in fds]
                if "FDSTOREREMOVE=1" in lines:
                    for each in [one for one in self.kept if one[0] == names[0]]:
                        os.close(each[1])
                        self.kept.remove(each)

    def names(self) -> list[str]:
        with self._lock:
            return sorted(name for name, _ in self.kept)

    def copies(self) -> list[tuple[str, int]]:
        """Returns what it keeps as a started daemon would find it."""
        with self._lock:
            return [(name, os.dup(fd)) for name, fd in self.kept]

    def start(self, daemon, *sockets: socket.socket, **environ: str) -> None:
        """Starts ``daemon`` with all that is kept; returns when it says that it is ready."""
        with self._lock:
            self.heard.clear()
            names = ":".join(["zhcached.socket"] * len(sockets) + [name for name, _ in self.kept])
            fds = [each.fileno() for each in sockets] + [fd for _, fd in self.kept]
        with daemon.log.open("ab") as log:
            daemon.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, names, " ".join(map(str, fds))],
                env=daemon.environ | {"NOTIFY_SOCKET": self.address} | environ,
                pass_fds=fds,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: "READY=1" in self.heard or daemon._died(), "it is ready", DEADLINE_S)

    def close(self) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"end", self.address)
        self._thread.join(DEADLINE_S)
        self._socket.close()
        for _, fd in self.kept:
            os.close(fd)
