"""Workers as the front sees them: a line to talk on, a way to end them, how they ended.

The front never imports what a worker runs. It asks a spawner, which has: one that is a child of
the daemon's own (``Direct``), or the service beside it (``Remote``).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NoReturn, Protocol

from zhcache import __version__
from zhcache.errors import ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol import frames
from zhcache.protocol.failure import to_error
from zhcache.protocol.residency import Abilities, Failed, FromSpawner, Launch, Launched
from zhcached.residency.launch import abilities
from zhcached.residency.launch.hired import Hired
from zhcached.residency.launch.template import Template, environment

Kind = Literal["fill", "resident", "parallel", "convert"]

LAUNCH_S = 180.0
"""How long a spawner may take to answer: its first answer comes after its imports, which take a
minute from a slow disk."""

HUNG_UP_S = 2.0
"""How long a worker that hung up may take to end."""

ATTEMPTS = 2

SOCKET = "ZHCACHE_WORKERS"
"""Names the socket of the spawner that a service manager keeps; without it there is one of our
own."""


class Worker(Protocol):
    """One worker process. All methods may be called from any thread, and again."""

    line: socket.socket
    """Frames of ``zhcache.protocol.residency``; whoever launched the worker closes it."""

    pid: int | None

    def kill(self) -> None:
        """Ends it now, and the line with it: whoever reads there sees the end."""
        ...

    def wait(self, timeout_s: float) -> str | None:
        """Returns how it ended, to follow "it", or None if it still runs after ``timeout_s``."""
        ...


def end(worker: Worker, patience_s: float) -> str:
    """Ends a worker that is of no more use, and its line; returns how it ended, to follow "it".

    One that hung up is on its way out, and is let go there by itself: killed, it would only be
    known that we ended it, not that memory had run out.

    Args:
        worker: The worker; nobody reads its line.
        patience_s: How long its end is waited for.
    """
    how = worker.wait(HUNG_UP_S) if _has_hung_up(worker.line) else None
    worker.kill()
    how = how or worker.wait(patience_s) or "does not end"
    worker.line.close()
    return how


def _has_hung_up(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return not line.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


class Launcher(Protocol):
    """Starts workers. Thread-safe."""

    def prepare(self) -> None:
        """Has what starts workers begin its imports: one will be wanted soon.

        Waits for nothing and raises nothing; what is wrong is told by ``launch``.
        """
        ...

    def launch(self, kind: Kind, name: str) -> Worker:
        """Starts a worker; ``name`` says in logs what it is for.

        Raises:
            ZhcacheError: None can be started; the message says why.
        """
        ...

    def abilities(self) -> Abilities:
        """Returns what workers find where they run; imports no torch on purpose.

        Raises:
            ZhcacheError: Nobody there can be asked.
        """
        ...

    def close(self) -> None:
        """Ends what was started for launching, and all workers with it."""
        ...


def chosen(home: Path, environ: Mapping[str, str] | None = None) -> Launcher:
    """Returns the launcher of this daemon: the service's where one is named, else its own."""
    env = os.environ if environ is None else environ
    named = env.get(SOCKET)
    return Remote(Path(named)) if named else Direct(home)


class Direct:
    """Workers of a spawner that is the daemon's child, in its own environment.

    It is started at the first need and ends by itself when nothing needs it for long.

    Args:
        home: The store, which workers may read.
        idle_s: Seconds without a worker after which the spawner ends.
    """

    def __init__(self, home: Path, *, idle_s: float = 600.0) -> None:
        self._template = Template(home, idle_s)

    def prepare(self) -> None:
        """As ``Launcher.prepare``."""
        with contextlib.suppress(ZhcacheError):
            self._template.start()

    def launch(self, kind: Kind, name: str) -> Worker:
        """As ``Launcher.launch``."""
        for _ in range(ATTEMPTS):
            channel, spawner = self._template.connect()
            if (worker := _hire(channel, kind, name)) is not None:
                return worker
            # It ended, idle, just as it was asked; or its imports crashed it.
            self._template.give_up(spawner)
        raise ZhcacheError(
            mark("no worker can be started: {reason}"),
            hint=mark("zhcache logs tells more"),
            reason=self._template.last_words(),
        )

    def abilities(self) -> Abilities:
        """As ``Launcher.abilities``."""
        command = [*abilities.program(), "check", "--parent", str(os.getpid())]
        return abilities.of_program(command, environment(os.environ))

    def close(self) -> None:
        """As ``Launcher.close``."""
        self._template.close()


class Remote:
    """Workers of ``zhcached-workers.service``.

    Args:
        path: Its socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepare(self) -> None:
        """As ``Launcher.prepare``; to be connected to is what starts the service."""
        with contextlib.suppress(ZhcacheError):
            self._connect().close()

    def launch(self, kind: Kind, name: str) -> Worker:
        """As ``Launcher.launch``."""
        return self._hire(kind, name)

    def abilities(self) -> Abilities:
        """As ``Launcher.abilities``; a service that has ended imports torch first, to answer."""
        worker = self._hire("check", "doctor")
        try:
            return abilities.of_line(worker.line)
        finally:
            worker.kill()
            worker.line.close()

    def close(self) -> None:
        """As ``Launcher.close``; the service is not ours to end."""

    def _hire(self, kind: Kind | Literal["check"], name: str) -> Hired:
        for _ in range(ATTEMPTS):
            # One that ends, idle, lets its last callers go; the service manager starts the next.
            if (worker := _hire(self._connect(), kind, name)) is not None:
                return worker
        return self._refuse("it closes the connection and says nothing")

    def _connect(self) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(LAUNCH_S)
        try:
            channel.connect(str(self._path))
        except OSError as error:
            channel.close()
            self._refuse(error.strerror or str(error))
        return channel

    def _refuse(self, reason: str) -> NoReturn:
        raise ZhcacheError(
            mark("no worker can be started at {path}: {reason}"),
            hint=mark("systemctl status zhcached-workers.socket zhcached-workers.service"),
            path=self._path,
            reason=reason,
        )


def _hire(channel: socket.socket, kind: Kind | Literal["check"], name: str) -> Hired | None:
    """Asks for a worker on a fresh connection; None if nobody answered there.

    Raises:
        ZhcacheError: The spawner says why it starts none.
    """
    channel.settimeout(LAUNCH_S)
    ours, theirs = socket.socketpair()
    heard, said = os.pipe()
    try:
        with theirs:
            frames.send(
                channel, Launch(kind=kind, name=name, build=__version__), [theirs.fileno(), said]
            )
        answer, fds = frames.receive(channel, FromSpawner)
        frames.close_all(fds)
    except (EOFError, OSError):
        answer = None
    finally:
        os.close(said)
    if isinstance(answer, Launched):
        return Hired(ours, channel, heard, pid=answer.pid, kind=kind, name=name)
    for each in (ours, channel):
        each.close()
    os.close(heard)
    if isinstance(answer, Failed):
        raise to_error(answer.error)
    return None
