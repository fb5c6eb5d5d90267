"""How a worker comes to be: a fork of the template, or a program of its own where none may be.

Either way it starts as the leader of a session, with its line as descriptor 3, what it says going
to the front, and nothing else open.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from zhcached.workers import life

LINE_FD = 3


@dataclass(frozen=True)
class Newborn:
    """What a worker starts with.

    Attributes:
        kind: ``fill`` or ``resident``.
        line: Its line; the caller keeps and closes its own end.
        words: Where its output goes, likewise.
        scratch: A folder of its own.
        reads: What it may read besides programs.
    """

    kind: str
    line: int
    words: int
    scratch: Path
    reads: Sequence[Path]


def fork(newborn: Newborn) -> int:
    """Returns the pid of a copy of this process that lives as the worker.

    The caller has made sure that this process has one thread.

    Raises:
        OSError: No process can be made.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        _live(newborn, parent)
    return pid


def execute(newborn: Newborn) -> int:
    """Returns the pid of a new program that lives as the worker; it imports for itself.

    Raises:
        OSError: No process can be made.
    """
    arguments = [sys.executable, "-P", "-m", "zhcached.workers", newborn.kind]
    arguments += ["--line", str(LINE_FD), "--scratch", str(newborn.scratch)]
    arguments += ["--parent", str(os.getpid())]
    for path in newborn.reads:
        arguments += ["--read", str(path)]
    # The order matters: the line may be any number but 1 and 2, words may be 3.
    moves = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, newborn.words, 1),
        (os.POSIX_SPAWN_DUP2, newborn.words, 2),
        (os.POSIX_SPAWN_DUP2, newborn.line, LINE_FD),
    ]
    return os.posix_spawn(
        sys.executable, arguments, dict(os.environ), file_actions=moves, setsid=True
    )


def _live(newborn: Newborn, parent: int) -> NoReturn:
    code = life.FAILED
    try:
        os.setsid()
        _take_places(newborn)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _own_randomness()
        gc.enable()
        code = life.live(newborn.kind, LINE_FD, newborn.scratch, newborn.reads, parent)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else life.FAILED
    except BaseException:  # noqa: BLE001 - it must not fall into the spawner's own frames
        traceback.print_exc()
    finally:
        # Never past here: the rest of the stack is the spawner's.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _take_places(newborn: Newborn) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for source, place in ((null, 0), (newborn.words, 1), (newborn.words, 2), (newborn.line, 3)):
        os.dup2(source, place, inheritable=place < LINE_FD)
    # The spawner's own: other workers' connections above all. Its objects stay in memory, in the
    # frames below this one, so that none closes a number that has been given out anew.
    for each in list(Path("/proc/self/fd").iterdir()):
        if int(each.name) > LINE_FD:
            with contextlib.suppress(OSError):
                os.close(int(each.name))


def _own_randomness() -> None:
    """Makes calls without a seed differ between workers, which would all inherit one state."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()
