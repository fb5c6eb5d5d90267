"""The spawner as its unit starts it: a socket that systemd holds, workers for the daemon's user."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from zhcache.errors import ZhcacheError
from zhcached.residency.launch import launch

pytest.importorskip("torch", reason="torch is not installed")

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "zhcached-workers.service"
WAIT_S = 60.0
# LISTEN_PID names the process that is meant, so it is set in it.
START = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Manager:
    """What systemd does of a socket unit: listens, and starts the service with the socket."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "workers.sock"
        self.scratch = folder / "scratch"
        self.said = folder / "said"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.child: subprocess.Popen[bytes] | None = None
        self.first = []
        """The worker of who came while nothing ran."""

    def start(self, *more: str) -> None:
        (command,) = re.findall(r"(?m)^ExecStart=\S+ (.*)$", UNIT.read_text("utf-8"))
        command = command.replace("/var/cache/zhcache-workers", str(self.scratch))
        fd = self.listener.fileno()
        with self.said.open("ab") as sink:
            self.child = subprocess.Popen(
                [sys.executable, "-c", START, str(fd), *command.split(), *more],
                env={**os.environ, "HF_TOKEN": "hf_secret"},
                pass_fds=(fd,),
                stdout=sink,
                stderr=sink,
            )

    def close(self) -> None:
        self.listener.close()
        if self.child is not None:
            self.child.kill()
            self.child.wait(WAIT_S)


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    """Its service went idle once before: systemd starts it again when somebody connects."""
    made = Manager(tmp_path_factory.mktemp("manager"))
    made.start("--idle", "0.2")
    assert made.child is not None
    assert made.child.wait(WAIT_S) == 0
    # Whoever connects waits in the backlog meanwhile.
    waiting = threading.Thread(target=lambda: made.first.append(_worker(made)))
    waiting.start()
    made.start()
    waiting.join(WAIT_S)
    yield made
    made.close()


def _worker(manager):
    return launch.Remote(manager.path).launch("fill", "x")


def test_spawner_that_went_idle_is_started_again_by_the_next_caller(manager):
    (worker,) = manager.first
    worker.kill()
    assert worker.wait(WAIT_S)
    worker.line.close()


def test_remote_worker_is_started_at_the_managers_socket(manager):
    worker = _worker(manager)
    worker.line.close()
    assert worker.wait(WAIT_S) == "ended with status 0"


def test_remote_worker_is_killed_with_the_daemons_connection(manager):
    worker = launch.Remote(manager.path).launch("resident", "x")
    worker.kill()
    assert worker.wait(WAIT_S) == "was ended by the daemon"
    worker.line.close()


def test_remote_says_what_its_environment_has(manager):
    assert launch.Remote(manager.path).abilities().parts["torch"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_gets_no_worker(manager):
    manager.path.chmod(0o666)
    for folder in manager.path.parents:
        if folder.owner() == "root" and folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(folder.stat().st_mode | 0o055)
    program = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534);"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(30);"
        "sys.exit(s.recv(1) != b'')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, manager.path], timeout=WAIT_S, check=False
    )
    assert done.returncode == 0


def test_garbage_at_the_socket_ends_that_connection_alone(manager):
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\0\0\0\2{}", b""):
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(manager.path))
            channel.sendall(garbage)
            channel.shutdown(socket.SHUT_WR)
            channel.settimeout(WAIT_S)
            # What was not read resets the connection instead of ending it.
            with contextlib.suppress(ConnectionResetError):
                assert channel.recv(1) == b""
    worker = launch.Remote(manager.path).launch("fill", "x")
    worker.kill()
    assert worker.wait(WAIT_S)
    worker.line.close()


def test_missing_service_is_told_with_what_to_look_at(tmp_path):
    with pytest.raises(ZhcacheError, match=r"workers\.sock") as caught:
        launch.Remote(tmp_path / "workers.sock").launch("fill", "x")
    assert "zhcached-workers.socket" in caught.value.hint
