"""A fill worker without torch: the bytes of a component's files, as one tensor of a sealed memfd.

It reads the first word of ``control/do`` to learn how to misbehave, and notes each start there.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from pathlib import Path

from zhcache.protocol import frames
from zhcache.protocol.messages import ErrorInfo
from zhcache.protocol.residency import Failed, Fill, Filled, Progress, Table, Tensor

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def memory(content: bytes, seals: int) -> int:
    fd = os.memfd_create("arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def table(name: str, size: int, offset: int = 0) -> Table:
    tensor = Tensor(
        name="weight", dtype="uint8", shape=[size], strides=[1], offset=offset, kind="parameter"
    )
    return Table(component=name, library="diffusers", class_name="Fake", tensors=[tensor])


def wait_for(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.005)


def work(line: socket.socket, control: Path) -> None:
    request, _ = frames.receive(line, Fill)
    with (control / "starts").open("a") as starts:
        starts.write(f"{os.getpid()} {request.device} {' '.join(request.components)}\n")
    do = (control / "do").read_text().split() if (control / "do").exists() else []
    if "fail" in do:
        error = ErrorInfo(code="no_space", message="the GPU is full", template="the GPU is full")
        frames.send(line, Failed(error=error))
        return
    if "garbage" in do:
        line.sendall(b"\xff" * 64)
        time.sleep(3600)
    frames.send(line, Progress(note="reads", bytes_done=0, bytes_total=len(request.components)))
    for number, name in enumerate(request.components):
        if number == 1 and "die" in do:
            os.kill(os.getpid(), 9)
        if number == 1 and "hang" in do:
            time.sleep(3600)
        if "gate" in do:
            wait_for(control / "go")
        files = sorted((Path(request.folder) / name).glob("*.safetensors"))
        content = b"".join(file.read_bytes() for file in files)
        told = table("other" if "stray" in do else name, len(content), 7 if "askew" in do else 0)
        fd = memory(content, 0 if "unsealed" in do or request.device != "cpu" else SEALS)
        size = len(content) + ("short" in do)
        frames.send(line, Filled(bytes=size, table=told, checksum=str(number)), [fd])
        os.close(fd)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        work(given, Path(sys.argv[2]))
