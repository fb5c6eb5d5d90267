"""Checkpoints taken in by workers that are threads, which send the bytes they were asked for."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from harness.convertkit import Pictures
from harness.storekit import publish
from zhcache.protocol import frames
from zhcache.protocol.conversion import Begin, Chunk, End, Extract, Finished, TensorError
from zhcache.protocol.messages import ImportFile, ImportRequest
from zhcache.protocol.names import parse_repo
from zhcached.convert.places import Places
from zhcached.convert.single import Asker, Checkpoints, Taken
from zhcached.jobs.importing.imports import derived_commit

BASE = "demo/base"
PREFIXES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.")

Act = Callable[[socket.socket, Extract, int], None]


def tensors(seed: bytes = b"a") -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Returns the shape and bytes of a few tensors that make Stable Diffusion 1 by name."""
    return {
        f"{PREFIXES[0]}input_blocks.0.0.weight": ((2, 4, 1, 1), seed * 8),
        **{f"{prefix}x": ((16,), (seed + prefix.encode())[:16]) for prefix in PREFIXES},
    }


def write(file: Path, held: dict[str, tuple[tuple[int, ...], bytes]]) -> Path:
    """Writes a checkpoint of one-byte elements; returns it."""
    table, data = {}, b""
    for name, (shape, content) in held.items():
        offsets = [len(data), len(data) + len(content)]
        table[name] = {"dtype": "U8", "shape": list(shape), "data_offsets": offsets}
        data += content
    head = json.dumps(table).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + data)
    return file


def wanted(file: Path, prefix: str) -> bytes:
    """Returns what an honest worker sends of a component: its tensors' bytes in order."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + length])
    spans = [one["data_offsets"] for name, one in table.items() if name.startswith(prefix)]
    return b"".join(content[8 + length + start : 8 + length + end] for start, end in spans)


def send(line: socket.socket, request: Extract, fd: int, *, nan: int = 0) -> None:
    """Does what an honest worker does."""
    content = wanted(Path(f"/proc/self/fd/{fd}"), request.prefix)
    begin(line, request, content)
    told = TensorError(
        name="x", dtype_in="F32", dtype_out="F32", max_abs=0.0, relative=0.0,
        nonfinite_in=nan, overflow=0, bytes=len(content),
    )  # fmt: skip
    frames.send(line, End(path=request.output, tensors=[told]))
    frames.send(line, Finished(tools={"stand-in": "1"}))


def begin(line: socket.socket, request: Extract, content: bytes) -> None:
    """Begins the file and sends ``content``, which need not be all of it."""
    frames.send(line, Begin(path=request.output, size=request.bytes))
    frames.send(line, Chunk(size=len(content)))
    line.sendall(content)


class _Thread:
    """A worker as the front has it."""

    pid = None

    def __init__(self, act: Act) -> None:
        self.line, self._theirs = socket.socketpair()
        self._act = act
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._theirs as line, contextlib.suppress(OSError, EOFError):
            request, (fd,) = frames.receive(line, Extract)
            try:
                self._act(line, request, fd)
            finally:
                os.close(fd)

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._theirs.shutdown(socket.SHUT_RDWR)

    def wait(self, timeout_s: float) -> str | None:
        self._thread.join(timeout_s)
        return None if self._thread.is_alive() else "ended"


class Workers:
    """Launches workers that do ``act``; notes what each was asked."""

    def __init__(self) -> None:
        self.asked: list[Extract] = []
        self.act: Act = send

    def launch(self, kind: str, name: str) -> _Thread:
        assert kind == "convert"
        return _Thread(self._do)

    def _do(self, line: socket.socket, request: Extract, fd: int) -> None:
        self.asked.append(request)
        self.act(line, request, fd)


class Office:
    """Takes checkpoints into one store, like a base that lies in it."""

    def __init__(self, store, clock, base: dict[str, bytes]) -> None:
        self.store, self.workers, self.show = store, Workers(), Pictures()
        self.fetched: list[str] = []
        publish(store, base, repo=BASE)
        self.checkpoints = Checkpoints(
            store,
            self.workers,
            Places(2),
            clock=clock,
            make_room=lambda size: store.space.reserve(size).release(),
            name_commit=derived_commit,
        )

    def take(self, file: Path, *, repo: str = "local/a", uid: int = 7, **asked) -> Taken:
        """Takes a file in, as a job of user ``uid`` would."""
        told = ImportFile(path=file.name, size=file.stat().st_size)
        request = ImportRequest(
            repo=repo, commit=None, revision=None, files=[told], op="checkpoint", **asked
        )
        fd = os.open(file, os.O_RDONLY)
        try:
            asker = Asker("job", uid, self.show)
            return self.checkpoints.take_in(fd, request, "main", self._fetch, asker)
        finally:
            os.close(fd)
            self.store.leases.release_holds("job")

    def _fetch(self, repo):
        self.fetched.append(str(repo))
        return self.store.resolve(parse_repo(BASE), None)

    def content(self, manifest, path: str) -> bytes:
        (file,) = [file for file in manifest.files if file.path == path]
        return self.store.layout.blob(file.sha256).read_bytes()

    @property
    def scraps(self) -> list[str]:
        """What lies about that should not, once nothing is being made."""
        return [path.name for path in self.store.layout.ingests.iterdir()]
