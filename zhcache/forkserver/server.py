"""The process that has done the imports and forks for each client of its user.

Started by ``start`` as ``python -c``, with the environment that imports are to see. Says on a pipe
whether it is ready, then listens. Ends when nobody came for a while, or when a file that it has
imported has changed: a client that finds it gone starts the next one.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec

from zhcache.channel import short_path
from zhcache.errors import ZhcacheError
from zhcache.forkserver import top
from zhcache.forkserver.keeper import keep
from zhcache.forkserver.place import lock_of, socket_of
from zhcache.forkserver.preload import Record, preload
from zhcache.protocol.failure import to_info

_BACKLOG = 64
_LOOK_S = 5.0
"""How often a server looks whether its socket is still its own."""

_PEER = struct.Struct("3i")


def main(bare: set[str]) -> top.Call:
    """Imports, says so, and returns what serves.

    Args:
        bare: Names of the modules that every interpreter has at its start.
    """
    place, key, pipe, idle = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    if not getattr(sys.flags, "safe_path", False):
        # Of `python -c`: the working folder. A script's own is put here in its process.
        del sys.path[0]
    os.set_inheritable(pipe, False)
    # The soft limit is not among what tells servers apart: scripts of others need more numbers.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    lock = _lock(lock_of(place, key))
    if lock is None:
        os.write(pipe, b"busy")
        sys.exit(0)
    before = _open_fds()
    # What is imported stays: to look through it for garbage while it grows is a fifth of the time.
    gc.disable()
    try:
        record = preload(bare)
    except ZhcacheError as error:
        os.write(pipe, msgspec.json.encode(to_info(error)))
        sys.exit(1)
    kept = _open_fds() - before
    path = socket_of(place, key)
    listener = _listen(path)
    # Keepers are nobody's to wait for. Not before: imports may run programs.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    # What is there now stays for good: collecting it in a child would copy all its pages.
    gc.freeze()
    gc.enable()
    os.write(pipe, b"ready")
    os.close(pipe)
    ask = functools.partial(_accept, listener, path, idle)
    top.end_early()
    return top.serving(lambda steps: _serve(ask, listener, record, kept, steps))


def _serve(
    ask: Callable[[], socket.socket | None],
    listener: socket.socket,
    record: Record,
    kept: set[int],
    steps: list[top.Call],
) -> None:
    """Forks for each client until it is no longer wanted; returns in a script's process only."""
    try:
        while True:
            line = ask()
            if line is None or not record.is_current():
                break
            pid = _fork()
            if pid == 0:
                listener.close()
                steps.append(keep(line, record, kept))
                return
            line.close()
    except BaseException:  # noqa: BLE001 - nothing is below this that could show it
        traceback.print_exc()
        os._exit(1)
    # The socket stays: by now it may be another server's, and a dead one is recognised.
    os._exit(0)


def _accept(listener: socket.socket, path: Path, idle_s: float) -> socket.socket | None:
    """Returns the next client of this user; None if none came, or none can come any more."""
    until = time.monotonic() + idle_s
    ours = path.stat().st_ino
    while time.monotonic() < until:
        listener.settimeout(max(0.01, min(_LOOK_S, until - time.monotonic())))
        try:
            line, _ = listener.accept()
        except TimeoutError:
            try:
                # Temporary folders are swept; a server that nobody finds must make room.
                if path.stat().st_ino != ours:
                    return None
            except OSError:
                return None
            continue
        raw = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        if _PEER.unpack(raw)[1] == os.geteuid():
            return line
        line.close()
    return None


def _fork() -> int:
    # A fork makes this thread the child's main one, unless it is known by another name.
    threading._active.pop(threading.get_ident(), None)  # pyright: ignore
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads; BLAS ends its own before a fork, and the
        # main one waits for ever.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _lock(path: Path) -> int | None:
    """Returns the lock's descriptor, held to the end of this process; None if it is taken."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    return number


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    with short_path(fresh) as name:
        listener.bind(name)
    listener.listen(_BACKLOG)
    # Under its name only once it listens; a dead server's socket goes with the same step.
    fresh.replace(path)
    return listener


def _open_fds() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            os.fstat(int(name))
        except OSError:
            continue
        found.add(int(name))
    return found
