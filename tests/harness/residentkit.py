"""What the tests of resident pipelines share: stand-in workers, and clients on a real socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.standin import sealed
from harness.storekit import publish
from zhcache.protocol import frames, residency
from zhcache.protocol.names import parse_repo
from zhcached.api import residents as conversation
from zhcached.api.peer import Peer
from zhcached.config import ResidencyConfig
from zhcached.convert.weighed import weighed
from zhcached.residency.devices import Devices as RealDevices
from zhcached.residency.resident.planned import Placements
from zhcached.residency.resident.residents import Residents
from zhcached.residency.resident.timeouts import Timeouts
from zhcached.residency.topology import machine

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 10.0


class Child:
    """A worker that is this process's own child."""

    def __init__(self, line: socket.socket, child: subprocess.Popen[bytes]) -> None:
        self.line = line
        self.pid = child.pid
        self._child = child

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)
        self._child.kill()

    def wait(self, timeout_s: float) -> str | None:
        try:
            code = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


class Launcher:
    """Starts stand-ins. ``told`` is what the next ones are told; ``started`` are all so far.

    ``prepared`` counts how often one was announced.
    """

    def __init__(self, **told: str) -> None:
        self.told = told
        self.started: list[Any] = []
        self.kinds: list[str] = []
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def launch(self, kind: str, name: str):
        assert kind in ("resident", "parallel"), name
        self.kinds.append(kind)
        ours, theirs = socket.socketpair()
        arguments = [f"{key}={value}" for key, value in self.told.items()]
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        with theirs:
            child = subprocess.Popen(
                [sys.executable, "-m", "harness.standin", str(theirs.fileno()), *arguments],
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "PYTHONPATH": path},
            )
        worker = Child(ours, child)
        self.started.append(worker)
        return worker

    def close(self) -> None:
        for worker in self.started:
            worker.kill()
            worker.wait(WAIT_S)


class Devices:
    """A machine with a CPU of ``ram`` bytes and GPUs of ``vram`` bytes, named as they are asked."""

    def __init__(self, ram: int = 2**40, vram: int = 2**40) -> None:
        self.ram, self.vram = ram, vram

    def list(self):
        return []

    def resolve(self, device, environ_visible=None, *, prefer=()):
        return "cpu" if device == "auto" else device

    def capacity(self, device, share):
        return self.ram if device == "cpu" else self.vram


class Arenas:
    """Arenas of one tensorless component, whose lease is written down."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.asked: list[tuple[str, Any]] = []
        self.fds: list[int] = []
        self.uids: set[int] = set()
        self.bytes = 0

    def attach(
        self, lease_id, repo, commit, uid, device, *, on_progress, cancelled, components=None
    ):
        self.held.append(lease_id)
        self.asked.append((device, components))
        self.uids.add(uid)
        on_progress(residency.Progress(note="fills"))
        table = residency.Table(component="unet", library="x", class_name="Y", tensors=[])
        self.fds.append(sealed(b"weights"))
        return [(residency.Arena(key="k", device=device, bytes=7, table=table), self.fds[-1])]

    def bytes_on(self, device):
        return self.bytes

    def bytes_of(self, repo, commit, uid, device):
        return 0

    def idle_on(self, device):
        return 0

    def released(self, lease_id):
        while lease_id in self.held:
            self.held.remove(lease_id)
            os.close(self.fds.pop())


class Client:
    """One connection that was opened with ``op: resident``."""

    def __init__(self, residents, request, uid=None):
        self.line, theirs = socket.socketpair()
        self.line.settimeout(WAIT_S)
        peer = Peer(os.getuid() if uid is None else uid, os.getgid(), os.getpid())
        services: Any = SimpleNamespace(residents=residents)
        self._thread = threading.Thread(
            target=self._serve, args=(theirs, request, peer, services), daemon=True
        )
        self._thread.start()
        self.ids = iter(range(1, 10**6))

    @staticmethod
    def _serve(channel, request, peer, services):
        with channel:
            conversation.serve(channel, request, peer, services)

    def call(self, fds=(), **fields) -> int:
        number = fields.pop("id", None) or next(self.ids)
        settings = {k: fields.pop(k) for k in ("seed", "wants_steps") if k in fields}
        frames.send(self.line, residency.Call(id=number, arguments=fields, **settings), list(fds))
        return number

    def cancel(self, number) -> None:
        frames.send(self.line, residency.Cancel(id=number))

    def next(self):
        event, fds = self.next_with_fds()
        frames.close_all(fds)
        return event

    def next_with_fds(self):
        return frames.receive(self.line, residency.ToClient)

    def until(self, *kinds, number=None):
        """Returns the next event of one of ``kinds``, of a call where that is named."""
        while True:
            event = self.next()
            if isinstance(event, kinds) and number in (None, getattr(event, "id", None)):
                return event

    def until_note(self, begin):
        """Returns the next note that begins so of what is waited for."""
        while True:
            note = self.until(residency.Progress).note
            if note.startswith(begin):
                return note

    def opened(self):
        return self.until(residency.Opened)

    def end_of(self, number):
        return self.until(residency.Returned, residency.Failed, number=number)

    def do(self, **arguments):
        return self.end_of(self.call(**arguments))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)
        self.line.close()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


_HEADER = b'{"a":{"dtype":"U8","shape":[900],"data_offsets":[0,900]}}'.ljust(92)

PIPELINE = {
    "model_index.json": json.dumps({"_class_name": "Tiny", "unet": ["diffusers", "U"]}).encode(),
    "unet/diffusion_pytorch_model.safetensors": b"\x5c" + bytes(7) + _HEADER + bytes(900),
}


class House:
    """A store with pipelines, and the residents over it."""

    def __init__(
        self,
        store,
        clock,
        told=None,
        *,
        ram=2**40,
        vram=2**40,
        timeouts=None,
        arenas=None,
        gpus=None,
        weigh=None,
        look=None,
        launcher=None,
        **config,
    ):
        for name in ("lab/one", "lab/two", "lab/three"):
            publish(store, PIPELINE, repo=parse_repo(name))
        self.launcher = launcher or Launcher(**(told or {}))
        self.arenas: Any = arenas or Arenas()
        settings = ResidencyConfig(**config)
        devices: Any = Devices(ram, vram)
        if gpus is not None:
            devices = RealDevices(gpus, lambda: ram)
        placements = Placements(
            weigh or partial(weighed, store),
            look or partial(machine, None, devices, share=settings.vram),
        )
        times = {"keep_alive": settings.keep_alive, "call": settings.call_timeout}
        self.residents = Residents(
            store, settings, clock, self.launcher, devices, self.arenas,
            placements,
            Timeouts(**{**times, **(timeouts or {})}),
        )  # fmt: skip
        self.clients: list[Client] = []
        self._listeners: list[socket.socket] = []

    def client(self, repo="lab/one", *, uid=None, **fields) -> Client:
        request = residency.ResidentRequest(repo=repo, **{"device": "cpu", **fields})
        client = Client(self.residents, request, uid)
        self.clients.append(client)
        return client

    def listen(self, folder, *, answer=conversation.serve) -> Path:
        """Serves ``handover.sock`` in ``folder``; returns the API socket's place beside it."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "handover.sock"))
        listener.listen()
        services: Any = SimpleNamespace(residents=self.residents)
        self._listeners.append(listener)

        def serve(channel):
            request, _ = frames.receive(channel, residency.ResidentRequest)
            with channel:
                answer(channel, request, Peer(os.getuid(), os.getgid(), os.getpid()), services)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    channel, _ = listener.accept()
                    threading.Thread(target=serve, args=(channel,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return folder / "api.sock"

    def end(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for client in self.clients:
            client.close()
        self.residents.close()
        self.launcher.close()
