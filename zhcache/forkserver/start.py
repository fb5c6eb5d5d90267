"""Finds the server with a key, or starts it, and waits until its imports are done."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from zhcache.channel import dial
from zhcache.errors import DaemonUnreachable, ZhcacheError
from zhcache.forkserver.facts import OURS, start_folder
from zhcache.forkserver.place import lock_of, log_of, socket_of
from zhcache.protocol.failure import to_error
from zhcache.protocol.messages import ErrorInfo

CODE = """\
bare = set(__import__('sys').modules)
from zhcache.forkserver.server import main
main(bare)()
"""
"""What ``python -c`` is given; arguments are the folder, the key, the pipe and the idle time."""

IDLE_S = 1800.0
"""How long a server stays when nobody comes; ``ZHCACHE_EXEC_IDLE`` is another number."""

MAX_SERVERS = 4
"""Of one user; each has some 300 MiB. The one unused for longest makes room for the next."""

_PAUSE_S = 0.05
_LOG_TAIL = 2000


def connect(place: Path, key: str, environ: Mapping[str, str]) -> socket.socket:
    """Returns a connection to the server with this key, starting it if there is none.

    Args:
        place: The folder of servers.
        key: Of the server.
        environ: What its imports are to see.

    Raises:
        ZhcacheError: It cannot import what it must, or does not start.
        NotPermitted: A stranger listens there.
    """
    path = socket_of(place, key)
    while True:
        try:
            line = dial(path)
        except DaemonUnreachable:
            _make_room(place)
            if not _start(place, key, environ):
                _wait_for_another(place, key)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)
            return line


def _make_room(place: Path) -> None:
    """Lets servers go so that one more is no more than may be; their scripts go on.

    A server whose socket is gone ends by itself.
    """
    by_use: list[tuple[float, Path]] = []
    for path in place.glob("*.sock"):
        with contextlib.suppress(FileNotFoundError):
            by_use.append((path.stat().st_mtime, path))
    for _, path in sorted(by_use)[: max(len(by_use) - MAX_SERVERS + 1, 0)]:
        path.unlink(missing_ok=True)


def _start(place: Path, key: str, environ: Mapping[str, str]) -> bool:
    """Starts a server; returns whether it is ready, False if another is about to be."""
    log = log_of(place, key)
    reads, writes = os.pipe()
    try:
        idle = os.environ.get("ZHCACHE_EXEC_IDLE") or IDLE_S
        flags: list[str] = subprocess._args_from_interpreter_flags()  # pyright: ignore
        command = [sys.executable, *flags, "-c", CODE, str(place), key, str(writes), str(idle)]
        with log.open("wb") as sink:
            # A session of its own: no terminal's signals or end may reach it.
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=start_folder(environ),
                env={**environ, OURS: "1"},
                pass_fds=[writes],
                start_new_session=True,
            )
    finally:
        os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        said = pipe.read()
    if said == b"ready":
        # It is nobody's to wait for: it outlives this process.
        child.returncode = 0
        return True
    if said == b"busy":
        child.wait()
        return False
    child.wait()
    if said.startswith(b"{"):
        raise to_error(msgspec.json.decode(said, type=ErrorInfo))
    raise ZhcacheError(
        "the process that imports torch and diffusers ended with {code}: {words}",
        hint="read {log}",
        code=child.returncode,
        words=log.read_text("utf-8", "replace")[-_LOG_TAIL:].strip() or "it said nothing",
        log=log,
    )


def _wait_for_another(place: Path, key: str) -> None:
    """Waits until the server that is starting listens, or is gone."""
    path, lock = socket_of(place, key), lock_of(place, key)
    while True:
        time.sleep(_PAUSE_S)
        if _listens(path):
            return
        with lock.open("rb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return


def _listens(path: Path) -> bool:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with line:
        try:
            line.connect(str(path))
        except OSError:
            return False
    return True
