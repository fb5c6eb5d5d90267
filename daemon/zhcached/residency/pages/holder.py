"""A process of its own that keeps files' pages in memory, by mapping and locking them.

Rejected: locking in the daemon itself. Locked pages count as the memory of the process that maps
them, so that a machine short of memory would end the daemon first, with everybody's downloads and
leases. This process asks to be ended first: the pages are then merely free to go, and nobody
fails. It gets descriptors and never a path, and ends with its daemon.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import sys
from pathlib import Path

from zhcache.protocol import frames
from zhcache.protocol.residency import Event
from zhcached.residency.pages.pagecache import Mapping


class Lock(Event):
    """Daemon to holder: keep the file beside this frame in memory."""

    name: str
    bytes: int


class Unlock(Event):
    """Daemon to holder: let that file go."""

    name: str


class Told(Event):
    """Holder to daemon: whether the file asked about is locked now, and why not."""

    name: str
    is_locked: bool
    reason: str = ""


def main(line: socket.socket) -> None:
    """Serves one daemon until it closes its end."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a Ctrl-C in the daemon's terminal is the daemon's
    # Raising it needs no right; where it cannot be written the system is merely asked less kindly.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != hard:
        # A unit may forbid the call, and has then set the limit itself.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    held: dict[str, Mapping] = {}
    while True:
        try:
            question, fds = frames.receive(line, Lock | Unlock)
        except (EOFError, OSError):
            return
        try:
            frames.send(line, _answer(held, question, fds))
        except OSError:
            return
        finally:
            frames.close_all(fds)


def _answer(held: dict[str, Mapping], question: Lock | Unlock, fds: list[int]) -> Told:
    before = held.pop(question.name, None)
    if before is not None:
        before.close()
    if isinstance(question, Unlock):
        return Told(name=question.name, is_locked=False)
    if len(fds) != 1:
        return Told(name=question.name, is_locked=False, reason=f"{len(fds)} descriptors")
    try:
        mapping = Mapping(fds[0], question.bytes)
    except OSError as error:
        return Told(name=question.name, is_locked=False, reason=str(error))
    try:
        mapping.lock()
    except OSError as error:
        mapping.close()
        return Told(name=question.name, is_locked=False, reason=str(error))
    held[question.name] = mapping
    return Told(name=question.name, is_locked=True)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
