"""Runs code as the interpreter's own main program does: nothing below it on the stack.

The server serves in a thread whose target is C code that calls one Python function after the
other. When one of them returns in a forked child, the child has no Python frame at all; next is
called what ``python`` itself calls, so that tracebacks, ``sys.exit``, unhandled exceptions, exit
handlers and the last flush are the interpreter's own doing. A fork makes its thread the main one.

Source: Modules/main.c (pymain_run_python, exit_sigint), Python/pythonrun.c.
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import functools
import operator
import os
import runpy
import signal
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fopen.restype = ctypes.c_void_p
_LIBC.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]

_RUN_FILE = ctypes.pythonapi.PyRun_AnyFileExFlags
_RUN_FILE.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
_RUN_CODE = ctypes.pythonapi.PyRun_SimpleStringFlags
_RUN_CODE.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
_EXIT = ctypes.pythonapi.Py_Exit

Call = Callable[[], Any]


def serving(function: Callable[[list[Call]], None]) -> Call:
    """Returns what calls ``function``, then whatever it has put into its list.

    To be called at the top level of the main module, and never returns there: in the process that
    goes on serving nothing is left to do, in a forked one its last step ends the interpreter.
    """
    steps: list[Call] = []
    steps.append(functools.partial(function, steps))
    done: list[Any] = []
    steps.append(lambda: steps.append(functools.partial(_end, done, steps)))
    calls = functools.partial(done.extend, map(operator.call, steps))
    # From 3.13 on a forked thread cannot end the interpreter: it returns to the thread state of
    # the main thread, which the fork has freed. There the main module's frame stays below the
    # script's. Source: Python/pylifecycle.c, resolve_final_tstate.
    return calls if sys.version_info >= (3, 13) else functools.partial(_beside, calls)


def _beside(calls: Call) -> NoReturn:
    """Has it done by a thread, which a fork makes the main one; waits for ever."""
    _thread.start_new_thread(calls, ())
    forever = _thread.allocate_lock()
    forever.acquire()
    while True:
        forever.acquire()


def absolute(path: bytes) -> bytes:
    """Returns the path as the interpreter makes it absolute: joined, not normalised."""
    try:
        return path if path.startswith(b"/") else os.getcwdb() + b"/" + path  # noqa: PTH109
    except OSError:
        return path


def script(path: bytes) -> Call:
    """Returns what runs a file; where it cannot be opened, says so and returns what exits."""
    name = absolute(path)
    file = _LIBC.fopen(path, b"rb")
    if not file:
        number = ctypes.get_errno()
        reason = f"[Errno {number}] {os.strerror(number)}"
        text = f"{sys.executable}: can't open file {os.fsdecode(name)!r}: {reason}\n"
        os.write(2, os.fsencode(text))
        return functools.partial(_EXIT, 2)
    return functools.partial(_RUN_FILE, file, name, 1, None)


def command(code: bytes) -> Call:
    """Returns what runs code as ``python -c`` does."""
    return functools.partial(_RUN_CODE, code + b"\n", None)


def module(name: str, *, is_folder: bool = False) -> Call:
    """Returns what runs a module as ``python -m`` does, or a folder or archive's ``__main__``."""
    return functools.partial(_run_module, name, not is_folder)


def main_module() -> types.ModuleType:
    """Returns a ``__main__`` as a fresh interpreter has it."""
    import builtins
    from importlib.machinery import BuiltinImporter

    made = types.ModuleType("__main__")
    made.__loader__ = BuiltinImporter
    if sys.version_info < (3, 14):
        made.__annotations__ = {}
    made.__dict__["__builtins__"] = builtins
    return made


def _run_module(name: str, alters_argv: bool) -> int:
    run: Any = runpy._run_module_as_main  # pyright: ignore[reportAttributeAccessIssue]
    try:
        run(name, alters_argv)
    except BaseException as error:  # noqa: BLE001 - what the interpreter does with any of them
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next
        if isinstance(error, SystemExit):
            _EXIT(_code_of(error))
        _show(error)
        return -1
    return 0


def _code_of(error: SystemExit) -> int:
    """Returns the exit code; prints what is no number. Source: handle_system_exit()."""
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if sys.stderr is not None:
        sys.stderr.write(f"{error.code}\n")
    return 1


def _show(error: BaseException) -> None:
    """Shows an exception that nobody caught. Source: _PyErr_PrintEx()."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except BaseException as second:  # noqa: BLE001 - a hook raises what it likes
        if isinstance(second, SystemExit):
            _EXIT(_code_of(second))
        if sys.stderr is not None:
            sys.stderr.write("Error in sys.excepthook:\n")
        sys.__excepthook__(type(second), second, second.__traceback__)
        if sys.stderr is not None:
            sys.stderr.write("\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, error.__traceback__)


def _end(done: list[Any], steps: list[Call]) -> None:
    """Adds the last step: the interpreter's end after its main program, with the right code."""
    failed = done[-1]
    if failed and getattr(sys, "last_type", None) is KeyboardInterrupt:
        # Python dies by SIGINT here, but only after it has cleaned up, when no Python code can
        # run any more: exit(2) calls raise(2). Where there is no on_exit, its code tells it.
        if hasattr(_LIBC, "on_exit"):
            _LIBC.on_exit(ctypes.cast(getattr(_LIBC, "raise"), ctypes.c_void_p), None)
            steps.append(functools.partial(_EXIT, int(signal.SIGINT)))
        else:
            steps.append(functools.partial(_EXIT, 128 + signal.SIGINT))
    steps.append(functools.partial(_EXIT, 1 if failed else 0))


def at_end(function: Call) -> None:
    """Has ``function`` called after all that is registered with ``atexit``.

    Whatever it holds is left alone by the interpreter's end.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(function))
    _at_end.append(function)


_at_end: list[Call] = []


def _call_at_end() -> None:
    for function in _at_end:
        function()


# Handlers run last in, first out, and this module is loaded before the first import that counts.
atexit.register(_call_at_end)


def end_early() -> None:
    """Has C's ``exit`` run the handlers registered from now on, flush, and leave out the others.

    Those are the destructors of libraries loaded so far. They write nothing, and taking apart what
    a fork shares would first copy it: most of a second for torch. What the script loads, and what
    CUDA registers when it is first used, comes later and is ended in full.
    """
    if not hasattr(_LIBC, "on_exit"):
        return
    # Last in, first out. on_exit hands the status on; __cxa_atexit an argument, and
    # fflush(NULL) means every stream.
    _LIBC.on_exit(ctypes.cast(_LIBC._exit, ctypes.c_void_p), None)
    getattr(_LIBC, "__cxa_atexit")(ctypes.cast(_LIBC.fflush, ctypes.c_void_p), None, None)
