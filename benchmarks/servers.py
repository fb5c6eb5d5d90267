"""The servers that are compared, each in a process of its own, and crowds of clients of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import FILE, REPO
from benchmarks.cost import Cost, cpu_s
from demohub import Hub
from harness.daemon import Daemon, source, until
from harness.gatewaysite import serving

_NGINX = """
{user}
worker_processes 1;
daemon off;
pid {place}/nginx.pid;
error_log {place}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  server {{ listen 127.0.0.1:{port}; root {served}; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where its file is, and its main process."""

    file_url: str
    pid: int

    def cpu_s(self) -> float:
        """Returns the CPU seconds that its processes have used so far."""
        return sum(cpu_s(pid) for pid in _family(self.pid))


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a crowd of clients was given: bytes and seconds to the first byte, for each."""

    cost: Cost
    bytes: list[int]
    first_byte_s: list[float]


def crowd(url: str, clients: int) -> Fetched:
    """Has so many curls fetch ``url`` at once, to nowhere.

    Raises:
        RuntimeError: One of them failed.
    """
    told = "%{size_download} %{time_starttransfer}"
    command = ["curl", "-sSf", "-o", "/dev/null", "-w", told, url]
    before = os.times()
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
            for _ in range(clients)
        ]
        answers = [client.communicate()[0] for client in running]
        wall_s = time.perf_counter() - began
        if any(client.returncode for client in running):
            said.seek(0)
            raise RuntimeError(f"curl failed: {said.read()[-2000:].decode(errors='replace')}")
    after = os.times()
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    split = [answer.split() for answer in answers]
    return Fetched(Cost(wall_s, used), [int(a) for a, _ in split], [float(b) for _, b in split])


@contextmanager
def _zhcache(program: str, hub: Hub, served: Path, place: Path) -> Iterator[Server]:
    del program, served
    daemon = Daemon(place / "d", source(hub)).start()
    try:
        with serving(daemon) as url:
            assert daemon.process is not None
            yield Server(f"{url}/{REPO}/resolve/main/{FILE}", daemon.process.pid)
    finally:
        daemon.stop()


@contextmanager
def _nginx(program: str, hub: Hub, served: Path, place: Path) -> Iterator[Server]:
    del hub
    port = _free_port()
    config = place / "nginx.conf"
    # Its workers must be able to read what this user has put there.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(_NGINX.format(user=user, place=place, port=port, served=served))
    with _running([program, "-c", str(config), "-p", str(place)], place, port) as pid:
        yield Server(f"http://127.0.0.1:{port}/{FILE}", pid)


@contextmanager
def _olah(program: str, hub: Hub, served: Path, place: Path) -> Iterator[Server]:
    del served
    port = _free_port()
    ours, theirs = f"127.0.0.1:{port}", hub.url.removeprefix("http://")
    command = [program, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--hf-scheme", "http", "--hf-netloc", theirs, "--hf-lfs-netloc", theirs]
    command += ["--mirror-scheme", "http", "--mirror-netloc", ours, "--mirror-lfs-netloc", ours]
    command += ["--repos-path", str(place / "repos"), "--log-path", str(place / "logs")]
    with _running(command, place, port) as pid:
        yield Server(f"http://{ours}/{REPO}/resolve/main/{FILE}", pid)


@contextmanager
def _running(command: list[str], place: Path, port: int) -> Iterator[int]:
    with (place / "output").open("ab") as output:
        process = subprocess.Popen(
            command, cwd=place, stdout=output, stderr=output, start_new_session=True
        )
    try:
        until(lambda: _listens(port) or process.poll() is not None, f"{command[0]} listens")
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended: {(place / 'output').read_text()[-2000:]}")
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


KINDS: dict[str, Callable[[str, Hub, Path, Path], AbstractContextManager[Server]]] = {
    "zhcache": _zhcache,
    "nginx": _nginx,
    "olah": _olah,
}
"""Each kind's start: program, hub, the folder that the hub serves, a folder of its own."""


def _family(pid: int) -> list[int]:
    """Returns a process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
