"""Which files cannot leave memory: the daemon's end of the process that locks them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading

import structlog

from zhcache.protocol import frames
from zhcached.residency.pages.holder import Lock, Told, Unlock

STOP_S = 5.0
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG")

log = structlog.get_logger()


class Locks:
    """The daemon's end: starts the process at the first lock and knows what it holds. Thread-safe.

    Once the process has died nothing is locked; the next ``lock`` starts another.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._held: set[str] = set()
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def is_locked(self, name: str) -> bool:
        """Whether the file cannot leave memory."""
        # Without the guard: it is held for the seconds that a large file takes to be locked.
        return name in self._held and self.pid is not None

    def lock(self, name: str, fd: int, size: int) -> bool:
        """Locks a file; False if the system does not allow that, which the log then tells.

        Args:
            name: By which it is unlocked.
            fd: The file, whose pages had better be in memory already; stays the caller's.
            size: Its bytes.
        """
        with self._guard:
            if self._is_closed:
                return False
            if name in self._held and self._lives():
                return True
            try:
                told = self._ask(Lock(name=name, bytes=size), [fd])
            except (OSError, EOFError, ValueError) as error:
                log.warning("locks.failed", error=str(error))
                self._end()
                return False
            if told.is_locked:
                self._held.add(name)
            else:
                log.info("locks.refused", file=name, bytes=size, reason=told.reason)
            return told.is_locked

    def unlock(self, name: str) -> None:
        """Lets a file go; does nothing for one that is not locked."""
        with self._guard:
            if name in self._held and self._lives():
                with contextlib.suppress(OSError, EOFError, ValueError):
                    self._ask(Unlock(name=name), [])
            self._held.discard(name)

    def close(self) -> None:
        """Ends the process, and with it all locks."""
        # Before the guard, which whoever locks a large file holds until the process answers.
        if (process := self._process) is not None:
            process.kill()
        with self._guard:
            self._is_closed = True
            self._end()

    # Below, the lock is held.

    def _lives(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            if self._held:
                log.warning("locks.died", status=self._process and self._process.returncode)
            self._end()
            return False
        return True

    def _ask(self, question: Lock | Unlock, fds: list[int]) -> Told:
        if not self._lives():
            self._start()
        assert self._line is not None
        frames.send(self._line, question, fds)
        told, extra = frames.receive(self._line, Told)
        frames.close_all(extra)
        return told

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "zhcached.residency.pages.holder", str(theirs.fileno())]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    env={k: os.environ[k] for k in _KEPT_ENVIRONMENT if k in os.environ},
                    pass_fds=[theirs.fileno()],
                )
            except OSError:
                ours.close()
                raise
        self._line = ours

    def _end(self) -> None:
        self._held.clear()
        if self._line is not None:
            self._line.close()
            self._line = None
        process, self._process = self._process, None
        if process is not None:
            # The end of its line is its end, unless it is in the middle of a lock.
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
