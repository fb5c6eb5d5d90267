"""The parent of one script: starts it, passes signals on, tells how it ended.

It outlives the server, so that a server's end ends no script, and it ends the script when the
client goes. The script is in a process group of its own within the keeper's session: a group
without a parent in its session is an orphan, and the kernel does not stop orphans.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
from collections.abc import Collection
from typing import Any, NoReturn

import msgspec

from zhcache.errors import UsageError, ZhcacheError
from zhcache.forkserver import become, top
from zhcache.forkserver.preload import Record
from zhcache.forkserver.wire import Differs, Ended, Failed, Pass, Run, Started, Stopped, Word
from zhcache.protocol import frames
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import ErrorInfo

_PATIENCE_S = 10.0
"""How long a client may take to say what it wants."""


def keep(line: socket.socket, record: Record, kept: Collection[int]) -> top.Call:
    """Returns what runs the script, in the script's process only; the keeper's ends here.

    Args:
        line: The connection to the client.
        record: What is imported.
        kept: Descriptors that imported libraries have opened.
    """
    run, fds = _request(line, record)
    report, told = os.pipe()
    awaited, go = os.pipe()
    alarm, rings = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(rings, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    keeper = os.getpid()
    child = os.fork()
    if child != 0:
        # Held here too, the script's pipes would never end.
        frames.close_all([told, awaited, *fds])
        _watch(line, child, (report, go), alarm)
    # Its number is the script's to use: an object would close it a second time.
    line.detach()
    return _script(run, fds, record, kept, (awaited, told), keeper)


def _request(line: socket.socket, record: Record) -> tuple[Run, list[int]]:
    os.setsid()
    line.settimeout(_PATIENCE_S)
    try:
        run, fds = frames.receive(line, Run)
    except (OSError, EOFError):
        os._exit(0)
    line.settimeout(None)
    if len(fds) != len(run.fds) + 1:
        os._exit(1)
    environ = {os.fsdecode(name): os.fsdecode(value) for name, value in run.environ}
    for name, value in run.imports.items():
        environ.pop(name, None)
        if value is not None:
            environ[name] = value
    if names := record.differing(environ, record.all_reads(environ)):
        _tell(line, Differs(names=names))
        os._exit(0)
    return run, fds


def _script(
    run: Run,
    fds: list[int],
    record: Record,
    kept: Collection[int],
    pipes: tuple[int, int],
    keeper: int,
) -> top.Call:
    """Becomes the script's process.

    What prevents it goes into the second of ``pipes``. The script runs once the first one says so:
    when the client has been told of it, so that a client that knows of none may ask again.
    """
    # Out of the way of the numbers that the client's descriptors will have.
    base = max([2, *run.fds]) + 1
    told = pipes[1]
    try:
        awaited, told = (fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, base) for number in pipes)
        os.setpgid(0, 0)
        become.die_with_parent(keeper)
        become.take_over(run, fds, {*kept, awaited, told})
        call = become.be_fresh(run, record)
        become.take_signals(run)
    except BaseException as error:  # noqa: BLE001 - nothing below this can tell anybody
        os.write(told, msgspec.json.encode(to_info(_as_ours(error))))
        os._exit(1)
    os.close(told)
    if not os.read(awaited, 1):
        os._exit(1)
    os.close(awaited)
    return call


def _as_ours(error: BaseException) -> ZhcacheError:
    if isinstance(error, ZhcacheError):
        return error
    return UsageError(
        "a process like yours cannot be made: {kind}: {reason}",
        hint="run it with `python` instead",
        kind=type(error).__name__,
        reason=error,
    )


def _watch(line: socket.socket, child: int, pipes: tuple[int, int], alarm: int) -> NoReturn:
    report, go = pipes
    if failure := _all(report):
        _tell(line, Failed(error=msgspec.json.decode(failure, type=ErrorInfo)))
        os._exit(0)
    _tell(line, Started(pid=child), child)
    os.write(go, b"g")
    os.close(go)
    poll = select.poll()
    poll.register(line, select.POLLIN)
    poll.register(alarm, select.POLLIN)
    continued = 0
    while True:
        ready = {number for number, _ in poll.poll()}
        if alarm in ready:
            os.read(alarm, 4096)
            _look_after(line, child, continued)
        if line.fileno() in ready:
            continued += _obey(line, child) == signal.SIGCONT


def _look_after(line: socket.socket, child: int, continued: int) -> None:
    pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
    if pid == 0:
        return
    if os.WIFSTOPPED(status):
        _tell(line, Stopped(signal=os.WSTOPSIG(status), continued=continued), child)
        return
    code = os.waitstatus_to_exitcode(status)
    _tell(line, Ended(code=max(code, 0), signal=max(-code, 0)))
    os._exit(0)


def _obey(line: socket.socket, child: int) -> int:
    """Passes the client's next signal on and returns it."""
    try:
        word: Any
        word, fds = frames.receive(line, Pass)
        frames.close_all(fds)
    except (OSError, EOFError):
        # The client is gone, and nobody is left to hear of the script.
        os.kill(child, signal.SIGKILL)
        os._exit(0)
    # It may have a group of its own by now, as a shell's child has; or it has just ended.
    with contextlib.suppress(OSError):
        # Not yet waited for, so the number is still the script's.
        (os.killpg if word.to_group else os.kill)(child, word.signal)
    return word.signal


def _tell(line: socket.socket, word: Word, child: int = 0) -> None:
    try:
        frames.send(line, word)
    except OSError:
        if child:
            os.kill(child, signal.SIGKILL)
        os._exit(0)


def _all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    os.close(descriptor)
    return b"".join(parts)
