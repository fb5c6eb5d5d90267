"""The spawner: imports torch once, then makes every worker in milliseconds, by forking.

One connection is one worker: it is started by the connection's only frame and killed when the
connection ends, so that whoever wanted it cannot leave it behind. The spawner has one thread and
never touches a GPU itself: neither would survive a fork.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from zhcache import __version__
from zhcache.errors import VersionMismatch, ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol import frames
from zhcache.protocol.failure import to_info
from zhcache.protocol.residency import Ended, Failed, Launch, Launched
from zhcached.workers import birth, doors, sandbox, template
from zhcached.workers.ending import in_words

MAX_WORKERS = 256
ASKING_S = 5.0
"""How long a connection may take to say what it wants; the spawner does nothing else meanwhile."""

BROKEN_IDLE_S = 1.0
"""A spawner that could not import ends soon, so that the next one sees what was mended."""

MAX_GENERATIONS = 64
"""The children of an orphan are orphans once it is dead: so often is looked for more."""

_PREFIX = "worker-"

OURS = "was ended by the daemon"


@dataclass
class _Life:
    """A running worker and the connection that keeps it."""

    pid: int
    pidfd: int
    channel: socket.socket
    scratch: Path
    unwanted: bool = False


class Spawner:
    """Starts workers and ends them.

    Args:
        door: Where connections come from.
        reads: What workers may read besides programs.
        scratch: Folder of the workers' own folders.
        idle_s: Ends after so long without a worker.
        broken: Why no worker can be started, told to whoever asks.
        adopts: This process has no children but workers, and is given what these leave behind.
    """

    def __init__(
        self,
        door: doors.Door,
        reads: Sequence[Path],
        scratch: Path,
        idle_s: float,
        broken: ZhcacheError | None,
        *,
        adopts: bool = False,
    ) -> None:
        self._adopts = adopts
        self._door = door
        self._reads = reads
        self._scratch = scratch
        self._idle_s = idle_s
        self._broken = broken
        self._lives: dict[int, _Life] = {}
        self._events = selectors.DefaultSelector()
        self._events.register(door, selectors.EVENT_READ)

    def run(self) -> None:
        """Serves until the door is closed for good or nothing was wanted for long."""
        empty_since = time.monotonic()
        while True:
            if self._lives:
                empty_since = time.monotonic()
            left = empty_since + self._idle_s - time.monotonic()
            happened = self._events.select(None if self._lives else max(0.0, left))
            if not happened and not self._lives and left <= 0:
                break
            try:
                for key, _ in happened:
                    self._see(key)
            except EOFError:
                break
        for life in list(self._lives.values()):
            self._kill(life)
            self._bury(life)

    def _see(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._door:
            if (channel := self._door.take()) is not None:
                self._begin(channel)
            return
        life: _Life = key.data
        if key.fd == life.pidfd:
            self._bury(life)
        elif self._lives.get(life.pid) is life:
            # The connection ended, or says what it has no right to say: nobody wants the worker.
            self._events.unregister(life.channel)
            self._kill(life)

    def _begin(self, channel: socket.socket) -> None:
        fds: list[int] = []
        try:
            channel.settimeout(ASKING_S)
            launch, fds = frames.receive(channel, Launch)
            life = self._start(channel, launch, fds)
        except ZhcacheError as error:
            _say(channel, Failed(error=to_info(error)))
            channel.close()
        except (EOFError, OSError):
            channel.close()
        else:
            # Registered first: if the word cannot be sent, the connection's end is seen.
            _say(channel, Launched(pid=life.pid))
        finally:
            frames.close_all(fds)

    def _start(self, channel: socket.socket, launch: Launch, fds: list[int]) -> _Life:
        if launch.build != __version__:
            raise VersionMismatch(
                mark("the daemon is {theirs}, its workers are {ours}"),
                hint=mark("restart both: zhcached.service and zhcached-workers.service"),
                theirs=launch.build,
                ours=__version__,
            )
        if self._broken is not None and launch.kind != "check":
            raise self._broken
        if len(fds) != 2 or len(self._lives) >= MAX_WORKERS:
            raise ZhcacheError(
                mark("no worker can be started: {reason}"),
                reason=f"{len(fds)} descriptors came, {len(self._lives)} workers run",
            )
        line, words = fds
        with contextlib.ExitStack() as undo:
            # Said rather than raised: the front takes a spawner that says nothing for a dead one,
            # and ends it with all its workers.
            try:
                scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._scratch))
                undo.callback(shutil.rmtree, scratch, ignore_errors=True)
                newborn = birth.Newborn(launch.kind, line, words, scratch, self._reads)
                pid = self._make(newborn)
                undo.callback(_end, pid)
                pidfd = os.pidfd_open(pid)
            except OSError as error:
                raise ZhcacheError(
                    mark("no worker can be started: {reason}"),
                    hint=mark("zhcache logs tells more"),
                    reason=error.strerror,
                ) from error
            undo.pop_all()
        life = _Life(pid, pidfd, channel, scratch)
        self._lives[pid] = life
        self._events.register(life.pidfd, selectors.EVENT_READ, life)
        self._events.register(channel, selectors.EVENT_READ, life)
        return life

    def _make(self, newborn: birth.Newborn) -> int:
        if why := template.hindrance():
            _note(f"a worker starts anew and imports for itself: the template cannot fork, {why}")
            return birth.execute(newborn)
        return birth.fork(newborn)

    def _kill(self, life: _Life) -> None:
        life.unwanted = True
        signal.pidfd_send_signal(life.pidfd, signal.SIGKILL)

    def _bury(self, life: _Life) -> None:
        # Compilers it started are in its group, whose number is its own until it is waited for.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(life.pid, signal.SIGKILL)
        _, status = os.waitpid(life.pid, 0)
        del self._lives[life.pid]
        for each in (life.pidfd, life.channel):
            with contextlib.suppress(KeyError, ValueError):
                self._events.unregister(each)
        os.close(life.pidfd)
        how = OURS if life.unwanted else in_words(status)
        _say(life.channel, Ended(how=how))
        life.channel.close()
        if self._adopts:
            _bury_orphans(self._lives.keys())
        shutil.rmtree(life.scratch, ignore_errors=True)


def main(control: int | None, reads: Sequence[Path], scratch: Path, idle_s: float) -> int:
    """Runs the spawner; returns its exit code.

    Args:
        control: Descriptor down which connections come; None: the service manager's socket.
        reads: What workers may read besides programs.
        scratch: Folder for what workers write; made if missing, emptied of an earlier spawner's.
        idle_s: Ends after so long without a worker.
    """
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    for stale in scratch.glob(f"{_PREFIX}*"):
        shutil.rmtree(stale, ignore_errors=True)
    sandbox.name("zhcache-spawner")
    sandbox.adopt_orphans()
    template.prepare(scratch)
    door = doors.Control(control) if control is not None else doors.Listener.inherited()
    # A collection in a worker would touch, and so copy, every page of what it inherits.
    gc.disable()
    broken = None
    began = time.monotonic()
    try:
        template.fill_up()
    except ZhcacheError as error:
        broken, idle_s = error, min(idle_s, BROKEN_IDLE_S)
        _note(error.message)
    gc.freeze()
    _note(f"ready after {time.monotonic() - began:.1f} s of imports")
    Spawner(door, reads, scratch, idle_s, broken, adopts=True).run()
    return 0


def _bury_orphans(known: Container[int]) -> None:
    """Ends what workers left behind: a process may leave its group, and then outlives it.

    One that forks without end may win this race; the next worker's end begins another.
    """
    # Since Linux 3.5, where the kernel was built so; without it nothing is known of them.
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    for _ in range(MAX_GENERATIONS):
        try:
            orphans = [pid for pid in map(int, children.read_text().split()) if pid not in known]
        except OSError:
            return
        if not orphans:
            return
        for pid in orphans:
            # Ours until it is waited for, so that the number is nobody else's.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _say(channel: socket.socket, word: msgspec.Struct) -> None:
    with contextlib.suppress(OSError):
        frames.send(channel, word)


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
