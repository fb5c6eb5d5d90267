"""Resident workers' own code in threads of this process, behind the daemon's residents."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

from zhcache.protocol import frames, residency


class ThreadWorker:
    """A worker as its supervisor has it; its death is its line's end."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.line, self._theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        from zhcached.workers import resident

        with self._theirs, contextlib.suppress(OSError, EOFError):
            request, fds = frames.receive(self._theirs, residency.Load)
            resident.run(self._theirs, request, fds)

    def kill(self) -> None:
        for line in (self.line, self._theirs):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def wait(self, timeout_s: float) -> str | None:
        self._thread.join(timeout_s)
        return None if self._thread.is_alive() else "was killed by a test"


class ThreadLauncher:
    """Starts them; ``started`` are all so far."""

    def __init__(self) -> None:
        self.started: list[ThreadWorker] = []

    def prepare(self) -> None:
        pass

    def launch(self, kind: str, name: str) -> ThreadWorker:
        assert kind == "resident", name
        self.started.append(ThreadWorker())
        return self.started[-1]

    def close(self) -> None:
        for worker in self.started:
            worker.kill()
            worker.wait(30)
