"""Variants over real worker processes without torch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from harness.fillkit import Child, Control
from zhcache.protocol.residency import Abilities
from zhcached.config import ConvertConfig
from zhcached.convert.variants import Picture, Variants

WORKER = Path(__file__).with_name("convertworker.py")


def start(control: Control, line: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(line), str(control.folder)],
        pass_fds=[line],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


class ConvertLauncher:
    """Starts the workers of ``convertworker``."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.children: list[Child] = []
        self.parts = {"torch": "2.6", "torchao": "0.18"}

    def launch(self, kind: str, name: str) -> Child:
        assert kind == "convert"
        ours, theirs = socket.socketpair()
        with theirs:
            child = Child(ours, start(self.control, theirs.fileno()))
        self.children.append(child)
        return child

    def abilities(self) -> Abilities:
        return Abilities(parts=self.parts, lacking=[])

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait(10)


class Pictures:
    """Takes what is told of progress, and may end the work."""

    def __init__(self) -> None:
        self.seen: list[Picture] = []
        self.error: Exception | None = None
        self.changed = threading.Condition()

    def __call__(self, picture: Picture) -> None:
        with self.changed:
            self.seen.append(picture)
            self.changed.notify_all()
        if self.error is not None:
            raise self.error

    def wait(self, test, timeout_s: float = 20.0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: any(map(test, self.seen)), timeout_s)


class Claims:
    """One key at a time, as the daemon's own do it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, threading.Lock] = {}

    @contextmanager
    def hold(self, key, check):
        with self._lock:
            lock = self._held.setdefault(key, threading.Lock())
        while not lock.acquire(timeout=0.01):
            check()
        try:
            yield
        finally:
            lock.release()


def variants_of(store, clock, launcher, *, recipes=None, stall_s=60.0, room=None, **config):
    def make_room(size: int) -> None:
        store.space.reserve(size).release()

    return Variants(
        store,
        ConvertConfig(**config),
        recipes or {},
        clock=clock,
        launcher=launcher,
        hold=Claims().hold,
        make_room=room or make_room,
        stall_s=stall_s,
    )
