"""A worker that converts without torch: of each file of weights every second byte.

It reads ``control/do`` to learn how to misbehave, as ``COMPONENT:WORD`` or ``WORD``, and notes each
start in ``control/starts``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from zhcache.protocol import frames
from zhcache.protocol.conversion import (
    Begin,
    Chunk,
    Convert,
    Discard,
    End,
    Finished,
    Same,
    Small,
    TensorError,
    Worked,
)
from zhcache.protocol.messages import ErrorInfo
from zhcache.protocol.residency import Failed

STEP = 1000


class Worker:
    """One worker, its line and what it was asked."""

    def __init__(self, line: socket.socket, control: Path) -> None:
        self.line = line
        self.request, _ = frames.receive(line, Convert)
        self.control = control
        with (control / "starts").open("a") as starts:
            starts.write(f"{os.getpid()} {self.request.component} {self.request.part.scheme}\n")
        words = (control / "do").read_text().split() if (control / "do").exists() else []
        mine = f"{self.request.component}:"
        self.do = {w.removeprefix(mine) for w in words if w.startswith(mine) or ":" not in w}
        self.done = 0

    def say(self, event: object) -> None:
        frames.send(self.line, event)

    def run(self) -> None:
        for word, act in BEFORE.items():
            if word in self.do:
                act(self)
        outputs = []
        for number, source in enumerate(self.request.weights):
            folder = Path(self.request.folder) / self.request.component
            content = (folder / source.path).read_bytes()
            assert len(content) == source.size
            path = self.request.rename.get(source.path, source.path)
            outputs.append(path)
            if "same" in self.do:
                self.say(Same(path=source.path))
            else:
                self.file(path, content[::2], number)
            self.done += source.size
            self.say(Worked(bytes_done=self.done))
        if "again" in self.do:
            self.say(Discard(path=outputs[0], reason="too large for float16"))
            self.file(outputs[0], b"anew", 0)
        if "same-after-all" in self.do:
            self.say(Discard(path=outputs[0], reason="nothing of it may be cast"))
            self.say(Same(path=self.request.weights[0].path))
        if (name := self.request.index) is not None:
            index = {"weight_map": {str(n): path for n, path in enumerate(outputs)}}
            self.say(Small(path=self.request.rename.get(name, name), content=json.dumps(index)))
        if self.request.part.scheme in ("fp8", "int8", "int4") or "config" in self.do:
            self.say(Small(path="config.json", content='{"quantization_config": {}}'))
        self.say(Finished(tools={"stand-in": "1"}, kept={"norm": "asked"}))

    def file(self, path: str, content: bytes, number: int) -> None:
        self.say(Begin(path=path, size=len(content)))
        for start in range(0, len(content), STEP):
            part = content[start : start + STEP]
            self.say(Chunk(size=len(part)))
            self.line.sendall(part)
            self.middle(path, content)
        if "discard" in self.do and number == 0:
            self.say(Discard(path=path, reason="too large for float16"))
            self.do.remove("discard")
            self.file(path, content, number)
            return
        self.say(End(path=path, tensors=[error(f"{path}.weight", len(content))]))

    def middle(self, path: str, content: bytes) -> None:
        """What is done once, after the first chunk of the first file."""
        for word, act in MIDDLE.items():
            if word in self.do:
                self.do.remove(word)
                act(self, path, content)


def error(name: str, size: int) -> TensorError:
    return TensorError(
        name=name, dtype_in="F32", dtype_out="F16", max_abs=0.25, relative=0.5,
        nonfinite_in=0, overflow=0, bytes=size,
    )  # fmt: skip


def wait_for(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.005)


def die(*_: object) -> None:
    os.kill(os.getpid(), 9)


def leave(worker: Worker, *_: object) -> None:
    """Hangs up and ends a while later, as a process does that has much memory to give back."""
    worker.line.shutdown(socket.SHUT_RDWR)
    time.sleep(0.3)
    os._exit(3)


def hang(*_: object) -> None:
    time.sleep(3600)


def fail(worker: Worker) -> None:
    text = "the header of {path} is hostile"
    info = ErrorInfo(
        code="integrity", message=text.format(path="x"), template=text, values={"path": "x"}
    )
    worker.say(Failed(error=info))
    sys.exit(0)


def first(worker: Worker) -> str:
    source = worker.request.weights[0].path
    return worker.request.rename.get(source, source)


def flood(worker: Worker, *_: object) -> None:
    while True:
        worker.say(Worked(bytes_done=0))


def trickle(worker: Worker, *_: object) -> None:
    """Begins a frame and goes on with it byte by byte."""
    worker.line.sendall(b"\0\1\0\0{")
    while True:
        worker.line.sendall(b" ")
        time.sleep(0.01)


BEFORE: dict[str, Callable[[Worker], object]] = {
    "gate": lambda w: wait_for(w.control / "go"),
    "silent": hang,
    "die": die,
    "fail": fail,
    "garbage": lambda w: w.line.sendall(b"\xff" * 64),
    "flood": flood,
    "trickle": trickle,
    "outside": lambda w: w.say(Begin(path="../model_index.json", size=10)),
    "stray": lambda w: w.say(Begin(path="other.safetensors", size=10)),
    "config-as-weights": lambda w: w.say(Begin(path="config.json", size=10)),
    "huge": lambda w: w.say(Begin(path=first(w), size=2**40)),
    "empty": lambda w: w.say(Begin(path=first(w), size=0)),
    "negative": lambda w: w.say(Begin(path=first(w), size=-1)),
    "unbegun": lambda w: w.say(Chunk(size=10)),
    "unended": lambda w: w.say(End(path=first(w), tensors=[])),
    "undone": lambda w: w.say(Discard(path=first(w), reason="never sent")),
    "early": lambda w: w.say(Finished()),
    "stray-text": lambda w: w.say(Small(path="../config.json", content="{}")),
    "no-json": lambda w: w.say(Small(path="config.json", content="{")),
    "same-other": lambda w: w.say(Same(path="config.json")),
    "same-twice": lambda w: (
        (w.say(Same(path=w.request.weights[0].path)),) * 2
        and w.say(Same(path=w.request.weights[0].path))
    ),
}

MIDDLE: dict[str, Callable[[Worker, str, bytes], object]] = {
    "die-midway": die,
    "leave-midway": leave,
    "hang-midway": hang,
    "more": lambda w, p, c: w.say(Chunk(size=len(c))),
    "short": lambda w, p, c: w.say(End(path=p, tensors=[])),
    "second": lambda w, p, c: w.say(Begin(path=p, size=10)),
    "overrun": lambda w, p, c: w.line.sendall(b"more bytes than were said"),
    "short-chunk": lambda w, p, c: (w.say(Chunk(size=500)), w.line.shutdown(socket.SHUT_WR)),
    "finish": lambda w, p, c: w.say(Finished()),
    "gate-midway": lambda w, p, c: wait_for(w.control / "go"),
}


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        Worker(given, Path(sys.argv[2])).run()
