"""What workers would find: asked of one that does nothing else, in the sandbox of all of them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from zhcache.errors import ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol import frames
from zhcache.protocol.residency import Abilities

ANSWER_S = 30.0


def of_line(line: socket.socket) -> Abilities:
    """Returns what a ``check`` worker says on its line.

    Raises:
        ZhcacheError: It says nothing.
    """
    line.settimeout(ANSWER_S)
    try:
        found, fds = frames.receive(line, Abilities)
    except (EOFError, OSError) as error:
        raise ZhcacheError(
            mark("workers cannot be checked: {reason}"),
            hint=mark("zhcache logs tells more"),
            reason=str(error) or type(error).__name__,
        ) from error
    frames.close_all(fds)
    return found


def of_program(command: Sequence[str], environ: dict[str, str]) -> Abilities:
    """Starts ``command`` as a ``check`` worker of its own, which imports no torch.

    Raises:
        ZhcacheError: It cannot be started or says nothing.
    """
    ours, theirs = socket.socketpair()
    scratch = tempfile.mkdtemp(prefix="zhcache-check-")
    try:
        with ours:
            with theirs:
                child = subprocess.Popen(
                    [*command, "--line", str(theirs.fileno()), "--scratch", scratch],
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                )
            try:
                return of_line(ours)
            finally:
                child.kill()
                child.wait()
    except OSError as error:
        raise ZhcacheError(
            mark("workers cannot be checked: {reason}"),
            hint=mark("zhcache logs tells more"),
            reason=error.strerror,
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def program() -> list[str]:
    """Returns the command of the workers' program, in this interpreter."""
    return [sys.executable, "-P", "-m", "zhcached.workers"]
