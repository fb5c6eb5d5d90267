"""Rank 0: holds the worker's line, forks the other ranks, and makes each call with them.

All of this is done before torch computes: no thread and no CUDA context survives a fork. Each rank
shuts itself in, as every worker does, but in a network of their own, in which they may meet.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from zhcache.errors import ZhcacheError
from zhcache.protocol import frames
from zhcache.protocol.failure import to_info
from zhcache.protocol.residency import Failed, Load
from zhcached.workers import sandbox
from zhcached.workers.parallel import namespace, rank


def live(line_fd: int, scratch: Path, reads: Sequence[Path], parent: int) -> int:
    """Becomes as many ranks as the first frame has devices, and serves as the first of them.

    Args:
        line_fd: The line to the front, which is closed at the end.
        scratch: A folder of the worker's own, where the ranks meet.
        reads: What may be read besides programs.
        parent: The process that made this one, with which it dies.

    Returns:
        The process's exit code.
    """
    refusal = None
    try:
        namespace.enter()
    except ZhcacheError as error:
        refusal = error
    # After the namespace: with other rights a process may lose what it asked for.
    sandbox.die_with(parent)
    sandbox.name("zhcache-rank-0")
    with socket.socket(fileno=line_fd) as line, contextlib.suppress(EOFError):
        # Of the daemon, hence read before this process is shut in: how many there are to be.
        request, fds = frames.receive(line, Load)
        if refusal is None:
            _serve(line, request, fds, scratch, reads)
        else:
            frames.close_all(fds)
            frames.send(line, Failed(error=to_info(refusal)))
    return 0


def _serve(
    line: socket.socket, request: Load, fds: Sequence[int], scratch: Path, reads: Sequence[Path]
) -> None:
    def follow(number: int, theirs: socket.socket) -> None:
        _shut_in(scratch, reads)
        from zhcached.workers.parallel import following

        following.run(theirs, request, fds, number, scratch)

    ranks = [
        rank.fork(number, device, fds, functools.partial(follow, number))
        for number, device in enumerate(request.devices[1:], start=1)
    ]
    _shut_in(scratch, reads)
    # Not before the fork: a program that imports for itself may get threads by it.
    from zhcached.workers import resident
    from zhcached.workers.parallel.crew import Crew

    resident.run(line, request, fds, Crew(line, ranks, scratch))


def _shut_in(scratch: Path, reads: Sequence[Path]) -> None:
    lacking = sandbox.enter(scratch, reads, may_meet=True)
    if lacking:
        sys.stderr.write(f"this worker is not kept from: {'; '.join(lacking)}\n")
