"""The daemon under what the unit gives it: a held socket, readiness, a watchdog, no W+X memory.

systemd itself is not needed: its protocol is a datagram socket and a few variables, and
MemoryDenyWriteExecute is a prctl.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("aiohttp", reason="needs the daemon's extra")

DEADLINE_S = 30.0
PR_SET_MDWE = 65
PR_GET_MDWE = 66

# LISTEN_PID names the process that is meant, so it is set after the fork. PR_SET_MDWE (65) with
# PR_MDWE_REFUSE_EXEC_GAIN (1) is inherited over fork and exec; descriptor 3 is where sd_listen_fds
# begins.
LAUNCH = """
import ctypes, os, sys
descriptor = int(sys.argv[1])
os.dup2(descriptor, 3, inheritable=True)
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:
    sys.exit("the kernel has no PR_SET_MDWE")
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", "zhcached"])
"""


def has_mdwe() -> bool:
    return ctypes.CDLL(None).prctl(PR_GET_MDWE, 0, 0, 0, 0) >= 0


pytestmark = pytest.mark.skipif(not has_mdwe(), reason="needs Linux 6.3 for PR_SET_MDWE")


class Service:
    """A daemon started as the service manager would."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "api.sock"
        self._log = (folder / "log").open("w+")
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(folder / "notify"))
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.socket))
        self.listener.listen(16)
        config = folder / "config.toml"
        config.write_text('[store]\nmin_free = "1MiB"\n')
        self._env = {
            **os.environ,
            "ZHCACHE_HOME": str(folder / "store"),
            "ZHCACHE_SOCKET": str(self.socket),
            "ZHCACHE_CONFIG": str(config),
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": "400000",
        }
        self._env.pop("WATCHDOG_PID", None)
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        descriptor = self.listener.fileno()
        self.child = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(descriptor)],
            env=self._env,
            pass_fds=[descriptor],
            stdout=self._log,
            stderr=self._log,
        )

    def wait_for(self, message: str) -> None:
        """Waits until the service manager is told ``message``, or the daemon has ended."""
        assert self.child is not None
        ended = os.pidfd_open(self.child.pid)
        try:
            while select.select([self.notified, ended], [], [], DEADLINE_S)[0] == [self.notified]:
                if message in self.notified.recv(4096).decode().splitlines():
                    return
        finally:
            os.close(ended)
        self._log.seek(0)
        pytest.fail(f"never told {message}\n{self._log.read()[-4000:]}")

    def version(self) -> httpx.Response:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket))) as client:
            return client.get("http://zhcached/v1/version", timeout=DEADLINE_S)

    def close(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.kill()
            self.child.wait(10)
        for each in (self.notified, self.listener, self._log):
            each.close()


@pytest.fixture
def service(tmp_path) -> Iterator[Service]:
    with contextlib.closing(Service(tmp_path)) as made:
        yield made


def test_service_is_ready_feeds_the_watchdog_and_stops_when_told(service):
    service.start()
    service.wait_for("READY=1")
    assert service.version().status_code == 200
    service.wait_for("WATCHDOG=1")
    service.child.send_signal(signal.SIGTERM)
    service.wait_for("STOPPING=1")
    assert service.child.wait(DEADLINE_S) == 0


def test_held_socket_answers_again_after_a_kill(service):
    service.start()
    service.wait_for("READY=1")
    service.child.kill()
    service.child.wait(10)
    # A client that comes now waits in the backlog of the socket that the manager holds.
    early = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    early.settimeout(DEADLINE_S)
    with early:
        early.connect(str(service.socket))
        early.sendall(b"GET /v1/version HTTP/1.1\r\nHost: zhcached\r\nConnection: close\r\n\r\n")
        service.start()
        assert early.recv(64).startswith(b"HTTP/1.1 200")


def test_stopping_leaves_the_managers_socket_in_place(service):
    service.start()
    service.wait_for("READY=1")
    service.child.send_signal(signal.SIGTERM)
    assert service.child.wait(DEADLINE_S) == 0
    assert service.socket.is_socket()
