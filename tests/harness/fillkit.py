"""Arenas over real worker processes without torch, and small pipelines for them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from harness.daemon import until
from harness.storekit import publish
from zhcache.errors import UsageError
from zhcache.protocol import frames
from zhcache.protocol.residency import Ended, Launch, Launched
from zhcached.config import ResidencyConfig
from zhcached.residency.arena.arenas import Arenas

WORKER = Path(__file__).with_name("fillworker.py")
GPU = "GPU-11111111-2222-3333-4444-555555555555"
MIB = 2**20


class Control:
    """How the workers behave, and how many there were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def do(self, *words: str) -> None:
        (self.folder / "go").unlink(missing_ok=True)
        (self.folder / "do").write_text(" ".join(words))

    def go(self) -> None:
        (self.folder / "go").touch()

    def reset(self) -> None:
        """Workers behave from now on, and are counted anew."""
        for name in ("do", "go", "starts"):
            (self.folder / name).unlink(missing_ok=True)

    @property
    def starts(self) -> list[list[str]]:
        noted = self.folder / "starts"
        return [line.split() for line in noted.read_text().splitlines()] if noted.exists() else []

    def pid(self, number: int = 0) -> int:
        return int(until(lambda: self.starts[number:], "a worker starts")[0][0])


def start(control: Control, line: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(line), str(control.folder)],
        pass_fds=[line],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


class Child:
    """A worker as the front has it."""

    def __init__(self, line: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.line = line
        self.process = process
        self.pid = process.pid

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)
        self.process.kill()

    def wait(self, timeout_s: float) -> str | None:
        try:
            return f"ended with {self.process.wait(timeout_s)}"
        except subprocess.TimeoutExpired:
            return None


class FillLauncher:
    """Starts the workers of ``fillworker``."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.children: list[Child] = []
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def launch(self, kind: str, name: str) -> Child:
        assert kind == "fill"
        ours, theirs = socket.socketpair()
        with theirs:
            child = Child(ours, start(self.control, theirs.fileno()))
        self.children.append(child)
        return child

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait(10)


class Spawner:
    """The spawner of a real daemon, at a socket, whose workers are ``fillworker``'s."""

    def __init__(self, path: Path, control: Control) -> None:
        self.path = path
        self._control = control
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                channel, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(channel,), daemon=True).start()

    def _serve(self, channel: socket.socket) -> None:
        with channel, contextlib.suppress(EOFError, OSError):
            _, fds = frames.receive(channel, Launch)
            process = start(self._control, fds[0])
            frames.close_all(fds)
            frames.send(channel, Launched(pid=process.pid))
            threading.Thread(target=self._end_with, args=(channel.dup(), process)).start()
            how = f"ended with {process.wait()}"
            frames.send(channel, Ended(how=how))

    def _end_with(self, channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
        with channel, contextlib.suppress(OSError):
            channel.recv(1)
        process.kill()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Devices:
    """A CPU and a GPU of some size."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = {"cpu": 100 * MIB, GPU: 100 * MIB, **sizes}

    def resolve(self, device: str, *_: object) -> str:
        if device not in self.sizes:
            raise UsageError("there is no device {device} here", device=device)
        return device

    def capacity(self, device: str, share: float) -> int:
        return self.sizes[device]


def files_of(**components: bytes) -> dict[str, bytes]:
    """Returns the files of a pipeline whose components have these weights."""
    index = {"_class_name": "Fake"} | {name: ["diffusers", "Fake"] for name in components}
    files = {"model_index.json": json.dumps(index | {"scheduler": ["diffusers", "S"]}).encode()}
    for name, weights in components.items():
        files[f"{name}/config.json"] = b"{}"
        files[f"{name}/diffusion_pytorch_model.safetensors"] = weights
    return files


def put_pipeline(store, repo: str, commit: str, **components: bytes) -> None:
    publish(store, files_of(**components), repo=repo, commit=commit)


def arenas_of(store, clock, launcher, devices=None, *, stall_s=300.0, **config) -> Arenas:
    limits = ResidencyConfig(**config)
    return Arenas(store, limits, clock, launcher, devices or Devices(), stall_s)
