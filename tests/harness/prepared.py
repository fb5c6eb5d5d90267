"""Our programs in forks of a process that has loaded their modules.

A daemon takes half a second to load what it is made of, a command an eighth, and a run of all tests
starts a thousand. What a fork does is what the program does that a service manager or a shell
starts, once it is loaded. Those start it in the tests of units, of daemons that commands start, and
of whatever else is started with ``subprocess``, and wherever a test changes what is read at the
start.

One process for each program, so that a command finds loaded what every command loads and no more.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

# What every run of the program loads, and the function that it is.
PROGRAMS = {
    "zhcached": (("zhcached.libraries", "zhcached.app"), "zhcached.__main__"),
    "zhcache": (("zhcache.client", "httpx"), "zhcache.cli"),
}
# Read by the loader, the interpreter and libraries when they start.
_AT_START = ("LD_", "PYTHON", "LC_", "LANG", "TZ", "MALLOC_", "SSL_", "ZHCACHE_FAILPOINTS")
_ANSWER = struct.Struct("i")
_TESTS = str(Path(__file__).resolve().parents[1])
_SERVE = """
import sys
sys.path.append(sys.argv[3])
from harness import prepared
sys.path.remove(sys.argv[3])
prepared.serve(sys.argv[1], int(sys.argv[2]))
"""


def plain() -> dict[str, str]:
    """Returns this environment without what steers our programs and their language."""
    ours = ("ZHCACHE_", "HF_", "XDG_", "LC_")
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(ours) and key != "LANGUAGE"
    }


class Forked:
    """A program that was started so, with what tests use of ``subprocess.Popen``."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self.pid: int = self._read()

    def _read(self) -> int:
        said = self._line.recv(_ANSWER.size)
        if len(said) != _ANSWER.size:
            raise AssertionError("the process that forks is gone")
        return _ANSWER.unpack(said)[0]

    def poll(self) -> int | None:
        """Returns the exit code, or None where it still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end; returns the exit code."""
        with self._lock:
            if self.returncode is None:
                if not select.select([self._line], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
                self.returncode = self._read()
                self._line.close()
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Forker:
    """The process of one program, on this side."""

    def __init__(self, program: str) -> None:
        self.environ = plain() | {"LANG": "C.UTF-8"}
        self._lock = threading.Lock()
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, program, str(theirs.fileno()), _TESTS],
                stdin=subprocess.DEVNULL,
                env=self.environ,
                pass_fds=(theirs.fileno(),),
            )
        atexit.register(self.close)

    def start(self, arguments: Sequence[str], env: Mapping[str, str], out: int, err: int) -> Forked:
        ours, theirs = socket.socketpair()
        text = json.dumps([list(arguments), dict(env), os.getcwd()]).encode()
        with self._lock, theirs, open(os.devnull, "rb") as nothing:
            fds = [theirs.fileno(), nothing.fileno(), out, err]
            socket.send_fds(self._line, [_ANSWER.pack(len(text))], fds)
            ours.sendall(text)
        return Forked(ours)

    def close(self) -> None:
        self._line.close()
        # Whoever was forked from here may still hold the line.
        self._process.kill()
        self._process.wait()


_forkers: dict[str, _Forker] = {}
_starting = threading.Lock()


def start(
    program: str, arguments: Sequence[str], env: Mapping[str, str], out: int, err: int
) -> Forked | None:
    """Starts a program in a session of its own, or returns None where it has to be loaded anew.

    Args:
        program: One of ``PROGRAMS``.
        arguments: Its arguments.
        env: All of its environment.
        out: Descriptor of its stdout, a file or a pipe.
        err: Descriptor of its stderr.
    """
    with _starting:
        if program not in _forkers:
            _forkers[program] = _Forker(program)
    forker = _forkers[program]
    if _at_start(env) != _at_start(forker.environ):
        return None
    return forker.start(arguments, env, out, err)


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_AT_START)}


def serve(program: str, fd: int) -> None:
    """Loads a program and forks one for each that is asked for, until nobody can ask."""
    loaded, name = PROGRAMS[program]
    for module in loaded:
        importlib.import_module(module)
        if module == "zhcached.libraries":
            importlib.import_module(module).load()
    main = importlib.import_module(name).main
    gc.collect()
    gc.freeze()
    line = socket.socket(fileno=fd)
    woken, wakes = socket.socketpair()
    for end in (woken, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    told: dict[int, socket.socket] = {}
    while True:
        ready = select.select([line, woken], [], [])[0]
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
        _tell(told)
        if line not in ready:
            continue
        head, fds, _, _ = socket.recv_fds(line, _ANSWER.size, 4)
        if not head:
            os._exit(0)
        asker = socket.socket(fileno=fds[0])
        with asker.makefile("rb") as stream:
            arguments, env, cwd = json.loads(stream.read(_ANSWER.unpack(head)[0]))
        pid = os.fork()
        if pid == 0:
            for one in (line, woken, wakes, asker, *told.values()):
                one.close()
            _become(main, program, arguments, env, cwd, fds[1:])
        for one in fds[1:]:
            os.close(one)
        told[pid] = asker
        asker.sendall(_ANSWER.pack(pid))


def _tell(told: dict[int, socket.socket]) -> None:
    """Says who has ended, and how."""
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with told.pop(pid) as asker, contextlib.suppress(OSError):
            asker.sendall(_ANSWER.pack(os.waitstatus_to_exitcode(status)))


def _become(main, program: str, arguments: list[str], env: dict[str, str], cwd: str, fds) -> None:
    """Runs the program in this fork, to its end."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for target, given in enumerate(fds):
            os.dup2(given, target)
            os.close(given)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = [program, *arguments]
        main(arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        # As the interpreter would, but for its own memory.
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
