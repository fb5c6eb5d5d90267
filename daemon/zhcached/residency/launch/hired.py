"""A worker that a spawner started: its line, its life, and what it says, into the daemon's log."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading

import structlog

from zhcache.protocol import frames
from zhcache.protocol.residency import Ended
from zhcached.residency.launch.words import Words

LOST = "was lost: the process that starts workers ended"

log = structlog.get_logger()


class Hired:
    """A ``Worker`` whose life is a connection to a spawner.

    Args:
        line: Our end of the worker's line.
        channel: The connection; its end is the worker's.
        heard: Where the worker's output arrives; closed at the end.
        pid: Of the worker.
        kind: What it is.
        name: What it is for.
    """

    def __init__(
        self,
        line: socket.socket,
        channel: socket.socket,
        heard: int,
        *,
        pid: int,
        kind: str,
        name: str,
    ) -> None:
        self.line = line
        self.pid: int | None = pid
        self._channel = channel
        self._ended = threading.Event()
        self._how = LOST
        self._lock = threading.Lock()
        self._log = log.bind(worker=kind, pid=pid, what=name)
        self._log.info("worker.started")
        # A daemon thread: the worker ends with the process, whether or not this one has seen it.
        self._watching = threading.Thread(
            target=self._watch, args=(heard,), name=f"worker-{pid}", daemon=True
        )
        self._watching.start()

    def kill(self) -> None:
        """As ``Worker.kill``."""
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)
        with self._lock, contextlib.suppress(OSError):
            # Only our side of it: how the worker ended is still told.
            self._channel.shutdown(socket.SHUT_WR)

    def wait(self, timeout_s: float) -> str | None:
        """As ``Worker.wait``."""
        return self._how if self._ended.wait(timeout_s) else None

    def _watch(self, heard: int) -> None:
        words = Words(heard, lambda line: self._log.info("worker.says", text=line))
        watched = select.poll()
        watched.register(self._channel, select.POLLIN)
        watched.register(heard, select.POLLIN)
        try:
            lives = True
            while lives:
                for fd, _ in watched.poll():
                    if fd != heard:
                        self._hear_the_end()
                        lives = False
                    elif not words.take():
                        watched.unregister(heard)
        finally:
            # What it said last is in the pipe already; a child of its own may hold it open.
            words.drain()
            os.close(heard)
            with self._lock:
                self._channel.close()
            self._log.info("worker.ended", how=self._how)
            self._ended.set()

    def _hear_the_end(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            ended, fds = frames.receive(self._channel, Ended)
            frames.close_all(fds)
            self._how = ended.how
