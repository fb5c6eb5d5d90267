"""A daemon with small pipelines in its store and workers without torch, and clients of it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from pathlib import Path

import msgspec

from harness.daemon import Daemon
from harness.fillkit import Control, Spawner, put_pipeline
from harness.storekit import COMMIT, open_store
from zhcache.channel import Channel
from zhcache.errors import ZhcacheError
from zhcache.lease import Lease
from zhcache.protocol import frames, messages
from zhcache.protocol.failure import to_error
from zhcache.protocol.residency import Attached, AttachRequest, Failed, ToClient
from zhcached.clock import SystemClock

REPO = "lab/pipe"
CONFIG = '[store]\nmin_free = "0"\n[residency]\nhost = "arenas"\n'


class House:
    """One daemon, whose fill workers are ``fillworker``'s."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.control = Control(folder / "control")
        self.spawner = Spawner(folder / "workers.sock", self.control)
        self.daemon = Daemon(folder / "d", config, {"ZHCACHE_WORKERS": str(self.spawner.path)})
        with contextlib.closing(open_store(self.daemon.home, SystemClock())) as store:
            put_pipeline(store, REPO, COMMIT, unet=b"u" * 3000, vae=b"v" * 1000)

    @property
    def handover(self) -> Path:
        return self.daemon.socket.with_name("handover.sock")

    def lease(self, repo: str = REPO) -> Lease:
        return Lease(Channel(self.daemon.socket), messages.LeaseRequest(repo=repo))

    def dial(self) -> socket.socket:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.settimeout(30)
        line.connect(str(self.handover))
        return line

    def attach(self, lease: str, device: str = "cpu", **more) -> dict[str, int]:
        """Returns a descriptor for each component.

        Raises:
            ZhcacheError: What the daemon said.
        """
        with self.dial() as line:
            frames.send(line, AttachRequest(lease=lease, device=device, **more))
            return attached(line)

    def say(self, raw: bytes, fds: list[int] | None = None) -> ZhcacheError:
        """Sends bytes as the body of a frame; returns the refusal."""
        with self.dial() as line:
            socket.send_fds(line, [struct.pack(">I", len(raw)) + raw], fds or [])
            return refusal(line)

    def close(self) -> None:
        self.daemon.stop()
        self.spawner.close()


def attached(line: socket.socket) -> dict[str, int]:
    while True:
        event, fds = frames.receive(line, ToClient)
        if isinstance(event, Failed):
            raise to_error(event.error)
        if isinstance(event, Attached):
            return {a.table.component: fd for a, fd in zip(event.arenas, fds, strict=True)}


def refusal(line: socket.socket) -> ZhcacheError:
    raw, _ = frames.receive_raw(line)
    # What an importing client reads is what all others read.
    assert msgspec.json.decode(raw, type=messages.ErrorReply).error
    return to_error(msgspec.json.decode(raw, type=Failed).error)


def read(fds: dict[str, int]) -> dict[str, bytes]:
    """Returns what is in the memory and closes it."""
    found = {name: os.pread(fd, os.fstat(fd).st_size, 0) for name, fd in fds.items()}
    frames.close_all(list(fds.values()))
    return found


CLIENT = """
import sys, time
from harness.attachkit import attached
from pathlib import Path
from zhcache.channel import Channel
from zhcache.lease import Lease
from zhcache.protocol import frames, messages
from zhcache.protocol.residency import AttachRequest
import mmap, socket
api, repo = Path(sys.argv[1]), sys.argv[2]
lease = Lease(Channel(api), messages.LeaseRequest(repo=repo))
line = socket.socket(socket.AF_UNIX)
line.connect(str(api.with_name("handover.sock")))
frames.send(line, AttachRequest(lease=lease.granted.id, device="cpu"))
fds = attached(line)
maps = {n: mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) for n, fd in fds.items()}
print("attached", flush=True)
for line in sys.stdin:
    print({n: m[:].decode() for n, m in maps.items()}, flush=True)
"""
"""A client in a process of its own, which says what it has mapped whenever it reads a line."""


def client_command(house: House, repo: str = REPO) -> list[str]:
    return [sys.executable, "-c", CLIENT, str(house.daemon.socket), repo]
