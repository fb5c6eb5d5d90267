"""A worker without torch that speaks the frames of a real one, and misbehaves when told to.

Told by its arguments, as ``name=value``, and by the ``do`` of a call's arguments. It says in its
results what it got, so that tests see what the daemon passed on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import time

import msgspec

from zhcache.protocol import frames, residency
from zhcache.protocol.messages import ErrorInfo
from zhcache.protocol.placement import SeenCall

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def sealed(content: bytes, seals: int = SEALS) -> int:
    fd = os.memfd_create("standin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


class StandIn:
    def __init__(self, line: socket.socket, told: dict[str, str]) -> None:
        self.line = line
        self.told = told
        self.calls = 0

    def run(self) -> None:
        load, fds = frames.receive(self.line, residency.ToResidentWorker)
        self.note("loads")
        # ``part``: only that one of several workers does as it is told.
        is_meant = self.told.get("part", str(load.part)) == str(load.part)
        how = self.told.get("load", "") if is_meant else ""
        if how == "crash":
            os._exit(7)
        if how == "refuse":
            error = ErrorInfo(code="usage", message="no such pipeline")
            self.send(residency.Failed(error=error))
            return
        if how == "hang":
            time.sleep(3600)
        if how == "garbage":
            self.line.sendall(b"\xff" * 64)
            time.sleep(3600)
        if gate := self.told.get("gate"):
            while not os.path.exists(gate):
                time.sleep(0.005)
        self.send(residency.Progress(note="reads weights", bytes_done=1, bytes_total=2))
        self.load, self.artifacts = load, [read_all(fd) for fd in fds]
        frames.close_all(fds)
        size = int(self.told.get("bytes", "1000"))
        loaded = residency.Loaded(class_name="Tiny", parameters=["prompt"], bytes=size)
        self.send(loaded)
        if self.told.get("artifacts"):
            fd = sealed(self.told["artifacts"].encode())
            self.send(residency.Artifacts(key="ab" * 16, bytes=1), [fd])
            os.close(fd)
        while True:
            self.next()

    def next(self) -> None:
        try:
            frame, fds = frames.receive(self.line, residency.ToResidentWorker)
        except EOFError:
            sys.exit(0)
        if isinstance(frame, residency.Call):
            self.calls += 1
            if self.told.get("untaken") == "crash":
                self.note("untaken")
                os.kill(os.getpid(), 9)
            self.send(residency.Taken(id=frame.id))
            self.call(frame, fds)
        frames.close_all(fds)

    def call(self, call: residency.Call, fds: list[int]) -> None:
        do = call.arguments.get("do", "echo")
        for step in range(call.arguments.get("steps", 0)):
            self.send(residency.Step(id=call.id, step=step, total=9, timestep=1.5))
        if do == "crash":
            os.kill(os.getpid(), 9)
        if do == "garbage":
            self.line.sendall(b"\x00\x00\x00\x04nope")
            return
        if do == "forge":
            self.send(residency.Returned(id=call.id + 1, class_name="x", fields={}, seconds=0))
            return
        if do == "wait" and not self.wait(call):
            return
        if do == "deaf":
            time.sleep(3600)
        if do == "fail":
            error = ErrorInfo(code="usage", message="no such argument")
            self.send(residency.Failed(id=call.id, error=error))
            return
        if took := call.arguments.get("took"):
            number = call.id + (do == "took of another")
            self.send(residency.Took(id=number, seen=msgspec.convert(took, SeenCall)))
        given = [read_all(fd).decode() for fd in fds]
        fields = {"got": call.arguments, "seed": call.seed, "memory": given, "pid": os.getpid(),
                  "nth": self.calls, "options": self.load.options,
                  "part": [self.load.part, self.load.parts], "devices": self.load.devices,
                  "arenas": [arena.device for arena in self.load.arenas],
                  "plan": self.load.plan and self.load.plan.how,
                  "artifacts": [a.decode() for a in self.artifacts]}  # fmt: skip
        out = []
        if do in ("image", "unsealed"):
            out.append(sealed(b"pixels", SEALS if do == "image" else fcntl.F_SEAL_SHRINK))
        returned = residency.Returned(id=call.id, class_name="Out", fields=fields, seconds=0.1)
        self.send(returned, out)
        frames.close_all(out)

    def wait(self, call: residency.Call) -> bool:
        """Waits for a file to be there; False if the call was cancelled before."""
        gate = call.arguments.get("gate", "/nonexistent")
        while not os.path.exists(gate):
            if select.select([self.line], [], [], 0.005)[0]:
                cancel, _ = frames.receive(self.line, residency.ToResidentWorker)
                assert isinstance(cancel, residency.Cancel)
                if cancel.id == call.id:
                    self.note("cancels")
                    error = ErrorInfo(code="cancelled", message="stopped")
                    self.send(residency.Failed(id=call.id, error=error))
                    return False
        return True

    def send(self, event: residency.Event, fds: list[int] | None = None) -> None:
        frames.send(self.line, event, fds or [])

    def note(self, what: str) -> None:
        """Adds a line to the file that counts, for tests that must know what happened here."""
        if log := self.told.get("log"):
            with open(log, "a") as file:
                file.write(f"{what} {os.getpid()}\n")


if __name__ == "__main__":
    told = dict(argument.split("=", 1) for argument in sys.argv[2:])
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        StandIn(socket.socket(fileno=int(sys.argv[1])), told).run()
