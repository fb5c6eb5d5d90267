"""The user's side: asks for the script, passes signals on, and ends as the script ends.

While the script runs all signals are blocked here and one thread takes them one by one, so that
each can be passed on with what the kernel says of it: one from the terminal goes to the script's
whole group, as it would have, one from a process to the script alone.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from zhcache.errors import UsageError, ZhcacheError
from zhcache.forkserver import facts, literals, place, start
from zhcache.forkserver.elsewhere import check_environment, check_packages
from zhcache.forkserver.wire import (
    Differs,
    Ended,
    Failed,
    FromKeeper,
    Kind,
    Pass,
    Run,
    Started,
    Stopped,
)
from zhcache.protocol import frames
from zhcache.protocol.failure import to_error

_FROM_KERNEL = 0x80
"""SI_KERNEL, what a terminal's signals carry. Source: asm-generic/siginfo.h."""

_ROOM = 19
"""Descriptors that server and keeper have open besides the script's."""

_TRIES = 5
_KEPT_BACK = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}


def run(kind: Kind, target: str, argv: Sequence[str]) -> NoReturn:
    """Runs a script as ``python`` would, and ends this process as the script ended.

    Raises:
        UsageError: It cannot be right here; the message says why.
        NotFound: torch or diffusers is not installed.
        ZhcacheError: The server does not start, or the keeper was killed.
    """
    environ = _environment()
    texts = {os.fsdecode(k): os.fsdecode(v) for k, v in environ}
    script = target if kind == "file" else None
    check_environment(texts, script)
    check_packages()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    request = _request(kind, target, argv, environ, blocked)
    request.imports = literals.assigned(target, texts) if script else {}
    line, _ = _begin(request, texts)
    with line:
        _attend(line, blocked)


def _begin(request: Run, environ: dict[str, str]) -> tuple[socket.socket, int]:
    """Returns the connection to the keeper of the script, which has started."""
    seen = dict(environ)
    for name, value in request.imports.items():
        seen.pop(name, None)
        if value is not None:
            seen[name] = value
    folder = place.folder(environ)
    names: set[str] = set()
    with _Descriptors(request.fds) as fds:
        for _ in range(_TRIES):
            line = start.connect(folder, facts.key_of(seen, names), _at_start(seen))
            line.settimeout(None)
            answer = _ask(line, request, fds)
            if isinstance(answer, Started):
                return line, answer.pid
            line.close()
            if isinstance(answer, Failed):
                raise to_error(answer.error)
            if isinstance(answer, Differs):
                names.update(answer.names)
    raise ZhcacheError(
        "no process could be had that has imported what the script needs, after {tries} tries",
        hint="read the logs in {folder}, or run it with `python`",
        tries=_TRIES,
        folder=folder,
    )


def _ask(line: socket.socket, request: Run, fds: list[int]) -> Any:
    """Returns the keeper's first word; None if the server ended meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _KEPT_BACK)
    answer: Any = None
    try:
        frames.send(line, request, fds)
        answer, more = frames.receive(line, FromKeeper)
        frames.close_all(more)
    except (OSError, EOFError):
        # Its files have changed or its time is up; the next one is started.
        return None
    finally:
        # Once the script is there, its signals are no longer this process's own.
        if not isinstance(answer, Started):
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return answer


class _ToKeeper:
    """What two threads say to the keeper.

    Attributes:
        continued: How many SIGCONT were passed on.
    """

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._lock = threading.Lock()
        self.continued = 0

    def send(self, number: int, *, to_group: bool) -> None:
        """Passes a signal on.

        Raises:
            OSError: The keeper is gone.
        """
        with self._lock:
            self.continued += number == signal.SIGCONT
            frames.send(self._line, Pass(signal=number, to_group=to_group))


def _attend(line: socket.socket, blocked: set[Any]) -> NoReturn:
    keeper = _ToKeeper(line)
    threading.Thread(target=_pass_signals, args=(keeper,), daemon=True).start()
    while True:
        try:
            word, fds = frames.receive(line, FromKeeper)
            frames.close_all(fds)
        except (OSError, EOFError):
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            raise ZhcacheError(
                "the process that watched the script was killed, and the script with it",
                hint="run it again",
            ) from None
        if isinstance(word, Stopped):
            # What was continued since is not to be stopped here: nobody would continue it again,
            # and the kernel drops a SIGCONT that waits when a process is stopped.
            is_continued = signal.SIGCONT in signal.sigpending()
            if word.continued == keeper.continued and not is_continued:
                _stop(keeper, word.signal)
        elif isinstance(word, Ended):
            if word.signal:
                _end_by(word.signal)
            # Nothing was written here, and streams may be closed: there is nothing to flush.
            os._exit(word.code)


def _pass_signals(keeper: _ToKeeper) -> None:
    wanted = signal.valid_signals() - _KEPT_BACK
    while True:
        came = signal.sigwaitinfo(wanted)
        try:
            keeper.send(came.si_signo, to_group=came.si_code == _FROM_KERNEL)
        except OSError:
            return


def _stop(keeper: _ToKeeper, number: int) -> None:
    """Stops this process as the script was stopped, for its shell to see."""
    if number == signal.SIGSTOP:
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_kill(threading.get_ident(), number)
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    if _is_orphaned():
        # The kernel stops nobody whom no shell could continue, so the script goes on, too.
        keeper.send(signal.SIGCONT, to_group=True)


def _is_orphaned() -> bool:
    try:
        parent = os.getppid()
        is_same_session = os.getsid(parent) == os.getsid(0)
        return not is_same_session or os.getpgid(parent) == os.getpgrp()
    except OSError:
        return True


def _end_by(number: int) -> NoReturn:
    """Ends this process by a signal, without a second core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_kill(threading.get_ident(), number)
    # Only what does not end a process by default comes here.
    os._exit(128 + number)


def _request(
    kind: Kind,
    target: str,
    argv: Sequence[str],
    environ: list[tuple[bytes, bytes]],
    blocked: set[Any],
) -> Run:
    umask = os.umask(0)
    os.umask(umask)
    ignored = [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]
    return Run(
        kind=kind,
        target=os.fsencode(target),
        argv=[os.fsencode(argument) for argument in argv],
        environ=environ,
        imports={},
        fds=_inherited(),
        umask=umask,
        limits={number: resource.getrlimit(number) for number in facts.limits()},
        ignored=[int(n) for n in ignored],
        blocked=[int(n) for n in blocked],
    )


def _environment() -> list[tuple[bytes, bytes]]:
    """Returns the environment that ``python`` would show the script.

    That is this process's own, but for LANGUAGE, which our translations set. What the interpreter
    sets at its start (LC_CTYPE in the C locale) it would have set there as well.
    """
    found = dict(os.environb)
    found.pop(b"LANGUAGE", None)
    given = _given()
    if b"LANGUAGE" in given:
        found[b"LANGUAGE"] = given[b"LANGUAGE"]
    return list(found.items())


def _given() -> dict[bytes, bytes]:
    """Returns the environment that this process was started with."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)


def _at_start(environ: dict[str, str]) -> dict[str, str]:
    """Returns the environment without what this interpreter has added at its own start.

    Only from the original does the server's interpreter come to the same settings.
    """
    if b"LC_CTYPE" in _given():
        return environ
    return {name: value for name, value in environ.items() if name != "LC_CTYPE"}


def _inherited() -> list[int]:
    """Returns the descriptors that a program started from here would have.

    Raises:
        UsageError: There are more than one message holds, or than may be open beside others.
    """
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            if not fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                found.append(int(name))
        except OSError:
            continue
    if len(found) >= frames.MAX_FDS:
        raise UsageError(
            "{count} open descriptors would be inherited, {limit} can be",
            hint="run it with `python`, or close some",
            count=len(found),
            limit=frames.MAX_FDS - 1,
        )
    # They are received under other numbers before each is put in its place.
    needed = max([2, *found]) + len(found) + _ROOM
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit < needed:
        raise UsageError(
            "{limit} descriptors may be open here, and with those inherited {needed} are needed",
            hint="raise the hard limit (`ulimit -n {needed}`), or run it with `python`",
            limit=limit,
            needed=needed,
        )
    return sorted(found)


class _Descriptors:
    """What goes beside the request: the working folder and what is inherited."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers

    def __enter__(self) -> list[int]:
        self._folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return [self._folder, *self._numbers]

    def __exit__(self, *raised: object) -> None:
        os.close(self._folder)
