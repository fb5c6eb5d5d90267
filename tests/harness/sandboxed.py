"""A program that becomes a worker as the spawner's fork does, tries what it must not, and tells.

``python -m harness.sandboxed SCRATCH READ SECRET`` prints one JSON object: what was tried, and the
error it met, or "done".
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from zhcached.workers import birth, life, template


def attempts(readable: Path, secret: Path) -> dict[str, Callable[[], object]]:
    parent = os.getppid()
    return {
        "read the weights": readable.read_bytes,
        "list the weights": lambda: list(readable.parent.iterdir()),
        "write to the weights": lambda: readable.open("r+b"),
        "add to the weights": lambda: (readable.parent / "more").write_bytes(b""),
        "replace the weights": lambda: readable.rename(readable.with_suffix(".gone")),
        "read a secret": secret.read_bytes,
        "link to a secret": lambda: os.link(secret, Path("here")),
        "follow a link to a secret": lambda: (os.symlink(secret, "s"), Path("s").read_bytes()),
        "write its own folder": lambda: Path("mine").write_bytes(b"x" * 10),
        "make a temporary file": lambda: tempfile.TemporaryFile().close(),
        "write to /tmp": lambda: Path(f"/tmp/zhcache-{os.getpid()}").write_bytes(b""),
        "write to /dev/shm": lambda: Path(f"/dev/shm/zhcache-{os.getpid()}").write_bytes(b""),
        "name its own thread": lambda: Path(
            "/proc/self/task", str(os.getpid()), "comm"
        ).write_bytes(b"zhcache-fill"),
        "name the spawner's thread": lambda: Path(f"/proc/{parent}/task/{parent}/comm").write_bytes(
            b"zhcache-fill"
        ),
        "write to /dev/null": lambda: Path("/dev/null").write_bytes(b"x"),
        "run a program": lambda: subprocess.run([sys.executable, "-c", "1"], check=True),
        "run a compiler": lambda: subprocess.run([shutil.which("cc") or "true", "-v"], check=True),
        "make a memory file": lambda: os.close(os.memfd_create("x", os.MFD_ALLOW_SEALING)),
        "make a socket pair": lambda: [end.close() for end in socket.socketpair()],
        "reach TCP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
        "reach UDP": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close(),
        "ask the kernel's tables": lambda: socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW
        ).close(),
        "call a Unix socket": lambda: socket.socket(socket.AF_UNIX).connect("\0nobody"),
        "see the spawner's environment": Path(f"/proc/{parent}/environ").read_bytes,
        "see the spawner's memory": lambda: Path(f"/proc/{parent}/mem").open("rb").close(),
        "signal the spawner": lambda: os.kill(parent, 0),
        "make a namespace": lambda: called("unshare", 0x10000000),
        "look into a process": lambda: called("ptrace", 16, parent, 0, 0),
    }


def called(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def tried(action: Callable[[], object]) -> str:
    try:
        action()
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__
    return "done"


def main() -> None:
    scratch, readable, secret = map(Path, sys.argv[1:])
    template.prepare(scratch)

    def tell(_: str, line: socket.socket) -> None:
        found = {name: tried(action) for name, action in attempts(readable, secret).items()}
        status = dict(
            each.split(":\t", 1) for each in Path("/proc/self/status").read_text().splitlines()
        )
        line.sendall(
            json.dumps(
                {
                    "tried": found,
                    "environment": sorted(os.environ),
                    "home": os.environ["HOME"],
                    "status": {
                        key: status[key] for key in ("NoNewPrivs", "Seccomp", "Name", "CapEff")
                    },
                    "oom": int(Path("/proc/self/oom_score_adj").read_text()),
                    "open": sorted(int(each) for each in os.listdir("/proc/self/fd")),
                }
            ).encode()
        )

    life._work = tell
    ours, theirs = socket.socketpair()
    own = Path(tempfile.mkdtemp(dir=scratch))
    pid = birth.fork(birth.Newborn("fill", theirs.fileno(), 2, own, [readable.parent]))
    theirs.close()
    said = b""
    while part := ours.recv(65536):
        said += part
    os.waitpid(pid, 0)
    print(said.decode())


if __name__ == "__main__":
    main()
