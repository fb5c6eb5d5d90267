"""One spawner of workers for all daemons of a test run: torch is imported once, not in each test.

It stands where ``zhcached-workers.service`` does: a socket that is listened on at once, and a
program that is started when somebody comes.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

# LISTEN_PID names the process that is meant, so it is set in it.
_START = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class SharedWorkers:
    """The socket and, once it was wanted, the spawner.

    Args:
        folder: Where both live.
        reads: What workers may read.
    """

    def __init__(self, folder: Path, reads: Path) -> None:
        self.path = folder / "workers.sock"
        self._folder = folder
        self._reads = reads
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._wanted, self._ended = os.pipe()
        self._child: subprocess.Popen[bytes] | None = None
        self._waiting = threading.Thread(target=self._await_the_first, daemon=True)
        self._waiting.start()

    def _await_the_first(self) -> None:
        came, _, _ = select.select([self._listener, self._wanted], [], [])
        if self._wanted not in came:
            self._start()

    def _start(self) -> None:
        fd = self._listener.fileno()
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("ZHCACHE_", "HF_"))}
        program = ["-P", "-m", "zhcached.workers", "spawner", "--idle", "3600"]
        program += ["--scratch", str(self._folder / "scratch"), "--read", str(self._reads)]
        with (self._folder / "said").open("ab") as sink:
            self._child = subprocess.Popen(
                [sys.executable, "-c", _START, str(fd), *program],
                env=environ,
                pass_fds=(fd,),
                stdout=sink,
                stderr=sink,
            )

    def close(self) -> None:
        """Ends the spawner, and with it every worker."""
        os.close(self._ended)
        self._waiting.join()
        os.close(self._wanted)
        self._listener.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
