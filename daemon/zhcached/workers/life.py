"""A worker's life: shut in first, then its first frame, then whatever that asks for."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from zhcache.protocol import frames
from zhcache.protocol.conversion import Convert, Extract, Unpickle
from zhcache.protocol.residency import Fill, Load
from zhcached.workers import check, sandbox
from zhcached.workers.parallel import leading

FAILED = 1
LINE_CLOSED = 0


def live(kind: str, line_fd: int, scratch: Path, reads: Sequence[Path], parent: int) -> int:
    """Does the worker's work in this process; returns its exit code.

    Args:
        kind: ``fill``, ``convert``, ``resident``, ``parallel`` or ``check``.
        line_fd: The line to the front, which is closed at the end.
        scratch: A folder of its own.
        reads: What may be read besides programs.
        parent: The process that made this one, with which it dies.
    """
    if kind == "parallel":
        return leading.live(line_fd, scratch, reads, parent)
    sandbox.die_with(parent)
    sandbox.name(f"zhcache-{kind}")
    lacking = sandbox.enter(scratch, reads)
    if lacking:
        sys.stderr.write(f"this worker is not kept from: {'; '.join(lacking)}\n")
    with socket.socket(fileno=line_fd) as line, contextlib.suppress(EOFError):
        if kind == "check":
            frames.send(line, check.abilities(lacking))
        else:
            _work(kind, line)
    return LINE_CLOSED


def _work(kind: str, line: socket.socket) -> None:
    if kind == "fill":
        request, fds = frames.receive(line, Fill)
        frames.close_all(fds)
        from zhcached.workers import fill

        fill.run(line, request)
    elif kind == "convert":
        request, fds = frames.receive(line, Convert | Unpickle | Extract)
        import torch

        from zhcached.workers import convert, single, unpickle

        # The front hashes on another core, and pieces that fit into a cache are not worth two. Set
        # here, where the process is this work's alone: every later thread of a process has it.
        torch.set_num_threads(1)
        if isinstance(request, Extract):
            single.run(line, request, fds)
            return
        frames.close_all(fds)
        if isinstance(request, Unpickle):
            unpickle.run(line, request)
        else:
            convert.run(line, request)
    else:
        request, fds = frames.receive(line, Load)
        from zhcached.workers import resident

        resident.run(line, request, fds)
