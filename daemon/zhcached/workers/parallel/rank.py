"""A rank: a process that was forked from the worker's first one, and a line to it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from zhcached.workers import sandbox

FAILED = 1


@dataclass(frozen=True)
class Rank:
    """A rank as rank 0 sees it.

    Attributes:
        number: Which one.
        device: Where it computes.
        pid: Its process, a child of this one.
        pidfd: Readable once it has ended.
        line: Frames of ``zhcached.workers.parallel.words``.
    """

    number: int
    device: str
    pid: int
    pidfd: int
    line: socket.socket


def fork(
    number: int, device: str, keep: Collection[int], work: Callable[[socket.socket], object]
) -> Rank:
    """Starts a rank, which dies with this process.

    Args:
        number: Which one.
        device: Where it is to compute.
        keep: Descriptors that it keeps, besides its words; all others are closed there.
        work: What it does, with its line to this process.

    Raises:
        OSError: No process can be made.
    """
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        _live(number, theirs, keep, work, parent)
    theirs.close()
    return Rank(number, device, pid, os.pidfd_open(pid), ours)


def _live(
    number: int,
    line: socket.socket,
    keep: Collection[int],
    work: Callable[[socket.socket], object],
    parent: int,
) -> NoReturn:
    code = FAILED
    try:
        sandbox.die_with(parent)
        sandbox.name(f"zhcache-rank-{number}")
        _close_all_but({line.fileno(), *keep})
        work(line)
        code = 0
    except BaseException:  # noqa: BLE001 - it must not fall into rank 0's own frames
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _close_all_but(kept: Collection[int]) -> None:
    # The front's line and the other ranks' above all: whoever reads there must see their end.
    for each in list(Path("/proc/self/fd").iterdir()):
        if int(each.name) > sys.stderr.fileno() and int(each.name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(each.name))
