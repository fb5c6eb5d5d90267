"""What goes wrong while one worker is started is that worker's: the others live on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from zhcache import __version__
from zhcache.protocol import frames
from zhcache.protocol.residency import Ended, Failed, FromSpawner, Launch, Launched
from zhcached.workers import spawner

WAIT_S = 30.0


class Door:
    """A door that tests come to."""

    def __init__(self) -> None:
        self.outside, self._inside = socket.socketpair()

    def fileno(self) -> int:
        return self._inside.fileno()

    def take(self) -> socket.socket:
        _, fds, _, _ = socket.recv_fds(self._inside, 1, 1)
        if not fds:
            raise EOFError
        return socket.socket(fileno=fds[0])


class Customer:
    """Asks a spawner for workers that sleep until they are killed."""

    def __init__(self, scratch: Path, **settings: bool) -> None:
        self._door = Door()
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(
            target=spawner.Spawner(self._door, [], scratch, 600.0, None, **settings).run
        )
        self._thread.start()

    def ask(self) -> Launched | Failed:
        ours, theirs = socket.socketpair()
        self._kept.append(ours)
        with theirs:
            socket.send_fds(self._door.outside, [b"\0"], [theirs.fileno()])
        ours.settimeout(WAIT_S)
        line, given = socket.socketpair()
        self._kept.append(line)
        with given:
            launch = Launch(kind="fill", name="x", build=__version__)
            frames.send(ours, launch, [given.fileno(), given.fileno()])
        return frames.receive(ours, FromSpawner)[0]

    def wait_for_end(self) -> None:
        """Waits until the worker that was asked for first has ended."""
        frames.receive(self._kept[0], Ended)

    def close(self) -> None:
        self._door.outside.close()
        self._thread.join(WAIT_S)
        for each in self._kept:
            each.close()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def customer(scratch, monkeypatch):
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(
        spawner.Spawner,
        "_make",
        lambda *_: os.posix_spawn(program[0], program, {}, setsid=True),
    )
    made = Customer(scratch)
    yield made
    made.close()


def test_scratch_that_cannot_be_made_is_told_and_ends_nobody_else(customer, scratch):
    first = customer.ask()
    assert isinstance(first, Launched)
    shutil.rmtree(scratch)
    refused = customer.ask()
    assert isinstance(refused, Failed)
    assert "No such file" in refused.error.message
    assert refused.error.hint
    os.kill(first.pid, 0)
    scratch.mkdir()
    assert isinstance(customer.ask(), Launched)


def test_worker_that_cannot_be_watched_is_ended(customer, scratch, monkeypatch):
    made: list[int] = []
    real = os.pidfd_open

    def refuse(pid: int) -> int:
        made.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    refused = customer.ask()
    assert isinstance(refused, Failed)
    assert "Too many open files" in refused.error.message
    with pytest.raises(ProcessLookupError):
        os.kill(made[0], 0)
    assert list(scratch.iterdir()) == []
    monkeypatch.setattr(os, "pidfd_open", real)
    assert isinstance(customer.ask(), Launched)


_RUNAWAY = """
import os, sys, time
ready, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(tell, str(os.getpid()).encode())
    time.sleep(600)
open(sys.argv[1], "w").write(os.read(ready, 20).decode())
"""
_SPAWNER = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_spawner_faults import Customer
from zhcached.workers import sandbox, spawner
told = Path(sys.argv[1]) / "pid"
program = [sys.executable, "-c", sys.argv[2], str(told)]
spawner.Spawner._make = lambda *_: os.posix_spawn(program[0], program, {}, setsid=True)
sandbox.adopt_orphans()
customer = Customer(Path(sys.argv[1]), adopts=True)
customer.ask()
customer.wait_for_end()
print(int(told.read_text()))
customer.close()
"""


def test_what_a_worker_leaves_behind_ends_with_it(scratch):
    """In a program of its own: all of that one's children are taken for workers'."""
    done = subprocess.run(
        [sys.executable, "-c", _SPAWNER, scratch, _RUNAWAY, Path(__file__).parent, *sys.path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not Path(f"/proc/{int(done.stdout)}").exists()
