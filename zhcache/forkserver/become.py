"""Makes a forked process what ``python`` would be at the start of the client's script.

Takes over from the client: descriptors, folder, environment, umask, limits, signals, arguments.
Makes anew what the server's past has left: streams, random numbers, the main module, caches of
what was true for the server. Runs in the child alone; what it changes belongs to this process.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from zhcache.errors import UsageError
from zhcache.forkserver import top
from zhcache.forkserver.preload import Record
from zhcache.forkserver.shelf import Shelf
from zhcache.forkserver.wire import Run

_DEATHSIG = 1
"""PR_SET_PDEATHSIG. Source: linux/prctl.h."""

_ALWAYS_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""By every Python, at its start. Source: Python/pylifecycle.c, signals_init."""

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(_DEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def take_over(run: Run, fds: Sequence[int], kept: Collection[int]) -> None:
    """Gives this process what the client has.

    Args:
        run: What the client said.
        fds: The client's working folder, then its descriptors in the order of ``run.fds``.
        kept: Further descriptors that stay open.

    Raises:
        UsageError: Something of it cannot be had here.
        OSError: As ``UsageError``.
    """
    folder, *others = fds
    os.fchdir(folder)
    _place_descriptors(run.fds, others, kept)
    os.umask(run.umask)
    for number, (soft, hard) in run.limits.items():
        resource.setrlimit(number, (soft, hard))
    os.environ.clear()
    for name, value in run.environ:
        os.environ[os.fsdecode(name)] = os.fsdecode(value)
    time.tzset()


def take_signals(run: Run) -> None:
    """Sets each signal to what a fresh interpreter would have made of the client's."""
    signal.set_wakeup_fd(-1)
    ignored = {*run.ignored, *_ALWAYS_IGNORED}
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        wanted = signal.SIG_IGN if number in ignored else signal.SIG_DFL
        # None is a handler of the interpreter's own, faulthandler's for instance.
        if signal.getsignal(number) not in (wanted, None):
            signal.signal(number, wanted)
    if signal.SIGINT not in ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, run.blocked)


def be_fresh(run: Run, record: Record) -> top.Call:
    """Removes the server's traces from the interpreter and returns what runs the script."""
    for number, (name, mode) in enumerate(_STREAMS):
        _renew_stream(number, name, mode)
    _forget_the_past()
    arguments = [os.fsdecode(argument) for argument in run.argv]
    target = os.fsdecode(run.target)
    flags: list[str] = subprocess._args_from_interpreter_flags()  # pyright: ignore
    option = {"file": [], "module": ["-m"], "command": ["-c"]}[run.kind]
    sys.orig_argv = [sys.executable, *flags, *option, target, *arguments]
    sys.argv = [target if run.kind == "file" else option[0], *arguments]
    sys.modules["__main__"] = top.main_module()
    shelf = Shelf(record)
    shelf.hide()
    top.at_end(shelf.let_be)
    top.at_end(_write_at_once)
    return _entry(run, target)


def _entry(run: Run, target: str) -> top.Call:
    """Returns what runs the script, with the first entry of ``sys.path`` it is to find."""
    is_safe = bool(getattr(sys.flags, "safe_path", False))
    if run.kind == "file":
        if _is_runnable(target):
            sys.path.insert(0, os.fsdecode(top.absolute(run.target)))
            return top.module("__main__", is_folder=True)
        if not is_safe:
            sys.path.insert(0, os.path.dirname(os.path.realpath(target)))  # noqa: PTH120
        return top.script(run.target)
    if run.kind == "module":
        if not is_safe:
            _insert_cwd()
        return top.module(target)
    if not is_safe:
        sys.path.insert(0, "")
    return top.command(run.target)


def _insert_cwd() -> None:
    try:
        sys.path.insert(0, str(Path.cwd()))
    except OSError:
        # As the interpreter: without a folder there is no such entry.
        return


def _is_runnable(target: str) -> bool:
    """Whether ``python`` takes it for a folder or an archive with a ``__main__``."""
    import zipimport

    if os.path.isdir(target):  # noqa: PTH112 - any bytes
        return True
    try:
        zipimport.zipimporter(target)
    except (zipimport.ZipImportError, OSError):
        return False
    return True


def _place_descriptors(numbers: Sequence[int], fds: Sequence[int], kept: Collection[int]) -> None:
    if clash := sorted({*numbers} & {*kept}):
        raise UsageError(
            "descriptor {number} is in use by an imported library",
            hint="run it with `python`, or without `{number}>` redirections",
            number=clash[0],
        )
    base = max([2, *numbers, *kept]) + 1
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, base) for fd in fds]
    wanted = {*numbers, *kept}
    for number, source in zip(numbers, high, strict=True):
        os.dup2(source, number, inheritable=True)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) not in wanted:
            _close(int(name))


def _close(number: int) -> None:
    try:
        os.close(number)
    except OSError:
        # The one that listed them is gone already.
        return


def _renew_stream(number: int, name: str, mode: str) -> None:
    """Builds a standard stream for what its descriptor is now.

    The object stays: loggers and default arguments of imported modules hold it.
    Source: Python/pylifecycle.c, create_stdio.
    """
    stream: Any = getattr(sys, f"__{name}__")
    try:
        os.fstat(number)
    except OSError:
        stream = None
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)
    if stream is None:
        return
    # As the server's own stream was made, under the same flags and variables.
    is_unbuffered: bool = stream.write_through
    is_raw = mode == "w" and is_unbuffered
    buffer: Any = io.open(number, f"{mode}b", 0 if is_raw else -1, closefd=False)  # noqa: SIM115, UP020
    raw = buffer if is_raw else buffer.raw
    raw.name = f"<{name}>"
    stream.__init__(
        buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=not is_unbuffered and (name == "stderr" or raw.isatty()),
        write_through=is_unbuffered,
    )
    stream.mode = mode


def _write_at_once() -> None:
    """Has what destructors print from here on written by the line.

    Libraries hold the streams as default arguments and are left alone at the end, so that nothing
    would flush them once more.
    """
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and not stream.closed:
            try:
                stream.reconfigure(line_buffering=True)  # pyright: ignore
            except (OSError, ValueError):
                # It cannot be flushed; the interpreter says so itself, in its own words.
                continue


def _forget_the_past() -> None:
    """Draws new random numbers and drops what was true for the server."""
    loaded: dict[str, Any] = dict(sys.modules)
    if (numpy_random := loaded.get("numpy.random")) is not None:
        # `random` and OpenSSL do this by themselves after a fork.
        numpy_random.seed()
    if (torch := loaded.get("torch")) is not None:
        torch.default_generator.seed()
    if (processes := loaded.get("multiprocessing.process")) is not None:
        processes.current_process().authkey = os.urandom(32)
        try:
            processes.ORIGINAL_DIR = str(Path.cwd())
        except OSError:
            processes.ORIGINAL_DIR = None
    if (logging := loaded.get("logging")) is not None:
        is_ns = isinstance(logging._startTime, int)
        logging._startTime = time.time_ns() if is_ns else time.time()
    if (cuda := loaded.get("torch.cuda")) is not None and hasattr(cuda, "_cached_device_count"):
        cuda._cached_device_count = None
    for entry in sys.path_importer_cache.values():
        if (forget := getattr(entry, "invalidate_caches", None)) is not None:
            forget()
