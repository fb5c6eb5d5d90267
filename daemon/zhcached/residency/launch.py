"""Workers as the front sees them: a line to talk on, a way to end them, how they ended.

The front never imports what a worker runs; it asks a ``Launcher`` for one.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from typing import Literal, Protocol

from zhcache.errors import ZhcacheError
from zhcache.i18n import mark

Kind = Literal["fill", "resident"]


class Worker(Protocol):
    """One worker process. All methods may be called from any thread, and again."""

    line: socket.socket
    """Frames of ``zhcache.protocol.residency``; whoever launched the worker closes it."""

    pid: int | None

    def kill(self) -> None:
        """Ends it now, and the line with it: whoever reads there sees the end."""
        ...

    def wait(self, timeout_s: float) -> str | None:
        """Returns how it ended, in words, or None if it still runs after ``timeout_s``."""
        ...


class Launcher(Protocol):
    """Starts workers. Thread-safe."""

    def launch(self, kind: Kind, name: str) -> Worker:
        """Starts a worker; ``name`` says in logs what it is for.

        Raises:
            ZhcacheError: None can be started here; the message says why.
        """
        ...


class Direct:
    """Workers as children of the daemon, in its own environment."""

    def launch(self, kind: Kind, name: str) -> Worker:
        """As ``Launcher.launch``."""
        if missing := [part for part in ("torch", "diffusers") if find_spec(part) is None]:
            raise ZhcacheError(
                mark("the daemon's environment {prefix} has no {missing}, which its workers need"),
                hint=mark("pip install 'zhcache[daemon,torch]' there"),
                prefix=sys.prefix,
                missing=", ".join(missing),
            )
        ours, theirs = socket.socketpair()
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-m", "zhcached.workers", kind, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(theirs.fileno(),),
            )
        return _Child(ours, child)


class _Child:
    def __init__(self, line: socket.socket, child: subprocess.Popen[bytes]) -> None:
        self.line = line
        self.pid: int | None = child.pid
        self._child = child

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)
        self._child.kill()

    def wait(self, timeout_s: float) -> str | None:
        try:
            code = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return in_words(code)


def in_words(code: int) -> str:
    """Returns what an exit code, negative for a signal, means to a reader."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with status {code}"
