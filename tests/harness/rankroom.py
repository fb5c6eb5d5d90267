"""A worker's ranks, shut in as they are, try what they may and what they must not, and tell.

``python -m harness.rankroom SCRATCH PORT SOCKET`` prints one JSON object for each rank: what was
tried, and the error it met, or "done". PORT is listened on in the caller's network, on loopback;
SOCKET is a Unix socket that is listened on, and of a name as an abstract one besides.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from harness.sandboxed import tried
from zhcache.protocol import frames
from zhcache.protocol.residency import Load
from zhcached.workers import birth, template
from zhcached.workers.parallel import leading, rank

ABROAD = ("192.0.2.1", 80)
"""TEST-NET-1: an address of nobody's, which a network with a way out would send to."""


def attempts(port: int, path: str) -> dict[str, Callable[[], object]]:
    return {
        "meet on loopback": _meet,
        "read the interfaces": lambda: socket.if_nameindex(),
        "call the machine's loopback": lambda: _call(("127.0.0.1", port)),
        "call abroad": lambda: _call(ABROAD),
        "send abroad": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(
            b"x", ABROAD
        ),
        "make a socket of IPv6": lambda: socket.socket(socket.AF_INET6).close(),
        "make a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
        "make a Unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
        "call a Unix socket by another": lambda: _call_by_a_pair(path),
        "ask the kernel's firewall": lambda: socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_FIREWALL
        ).close(),
        "make an interface": lambda: _raise("lo0"),
        "make a namespace": lambda: _called("unshare", 0x40000000),
        "go back": lambda: _go_back(os.getppid()),
    }


def _meet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as here:
        socket.create_connection(here.getsockname(), timeout=5).close()


def _call(address: tuple[str, int]) -> None:
    socket.create_connection(address, timeout=5).close()


def _call_by_a_pair(path: str) -> None:
    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM):
        end.connect(path)


def _raise(name: str) -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, 0x8914, name.encode().ljust(16, b"\0") + b"\1\0" + bytes(14))


def _go_back(pid: int) -> None:
    _called("setns", os.open(f"/proc/{pid}/ns/net", os.O_RDONLY), 0x40000000)


def _called(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def main() -> None:
    scratch, port, path = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    template.prepare(scratch)

    def told() -> bytes:
        found = {name: tried(action) for name, action in attempts(port, path).items()}
        found["interfaces"] = sorted(name for _, name in socket.if_nameindex())
        found["open"] = sorted(int(each) for each in os.listdir("/proc/self/fd"))
        return json.dumps(found).encode() + b"\n"

    def serve(line, request, fds, scratch, reads) -> None:
        def work(theirs: socket.socket) -> None:
            leading._shut_in(scratch, reads)
            theirs.sendall(told())

        other = rank.fork(1, "cpu", fds, work)
        leading._shut_in(scratch, reads)
        line.sendall(told() + other.line.makefile("rb").readline())

    leading._serve = serve
    ours, theirs = socket.socketpair()
    pid = birth.fork(birth.Newborn("parallel", theirs.fileno(), 2, scratch, []))
    theirs.close()
    frames.send(ours, Load(folder="", device="cpu", devices=["cpu", "cpu"]))
    sys.stdout.write(ours.makefile("r").read())
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
