"""``zhcache exec``: a script does what ``python script.py`` does. Each test runs both."""

# ruff: noqa: E501 - scripts are read best in one piece
from __future__ import annotations

import os
import shutil

import pytest

from harness.sidebyside import Pair, said

pytestmark = pytest.mark.journey


# --- how it ends ----------------------------------------------------------------------------------

ENDS = {
    "falls off its end": "print('done')",
    "sys.exit without a code": "import sys; sys.exit()",
    "sys.exit with a number": "import sys; sys.exit(7)",
    "sys.exit with a large number": "import sys; sys.exit(1000)",
    "sys.exit with a negative number": "import sys; sys.exit(-3)",
    "sys.exit with a text": "import sys; sys.exit('无法继续')",
    "sys.exit with an object": "import sys; sys.exit([1, 2])",
    "sys.exit with False": "import sys; sys.exit(False)",
    "raise SystemExit in a function": "def f():\n    raise SystemExit(4)\nf()",
    "os._exit": "import os; print('lost'); os._exit(9)",
    "unflushed output": "import sys; sys.stdout.write('no newline')",
    "an exception": "def f(x):\n    return 1 / x\nf(0)",
    "a chain of exceptions": "try:\n    1/0\nexcept Exception as e:\n    raise KeyError('x') from e",
    "an exception group": "raise ExceptionGroup('both', [ValueError(1), TypeError('2')])",
    "an exception without a text": "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    "a syntax error": "print('never'\nx = = 1\n",
    "an indentation error": "if True:\nprint(1)\n",
    "a null byte": "print(1)\0",
    "a bad encoding": "# -*- coding: klingon -*-\nprint(1)\n",
    "latin-1": "# -*- coding: latin-1 -*-\nprint(ascii('é'))\n",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "KeyboardInterrupt that is caught": "try:\n    raise KeyboardInterrupt\nexcept BaseException: pass",
    "an exit handler": "import atexit\natexit.register(print, 'last')\nprint('first')",
    "an exit handler that fails": "import atexit\natexit.register(lambda: 1 / 0)",
    "an exit handler that exits": "import atexit, sys\natexit.register(sys.exit, 3)",
    "an exit handler after an error": "import atexit\natexit.register(print, 'last')\n1/0",
    "an object with a destructor": "class A:\n    def __del__(self): print('gone', __name__)\na = A()",
    "a thread that goes on": (
        "import threading, time\n"
        "def work():\n    time.sleep(.2); print('thread')\n"
        "threading.Thread(target=work).start()\nprint('main')"
    ),
    "a daemon thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    ),
    "a thread that fails": (
        "import threading\nt = threading.Thread(target=lambda: 1/0, name='w')\nt.start(); t.join()"
    ),
    "a hook for exceptions": "import sys\nsys.excepthook = lambda *a: print('hook', a[0])\n1/0",
    "a hook that fails": "import sys\nsys.excepthook = lambda *a: 1/0\n{}['x']",
    "killed by a signal": "import os, signal\nprint(1, flush=True)\nos.kill(os.getpid(), signal.SIGTERM)",
    "killed by SIGKILL": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "abort": "import os; os.abort()",
    "a crash": "import ctypes; ctypes.string_at(0)",
    "SIGINT to itself": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)",
    "closed stdout": "import sys, os\nprint('x')\nos.close(1)",
    "another program instead": "import os\nos.execvp('sh', ['sh', '-c', 'echo replaced; exit 5'])",
}


@pytest.mark.parametrize("text", ENDS.values(), ids=ENDS.keys())
def test_script_ends_as_under_python(pair: Pair, text: str) -> None:
    pair.same(pair.script(text))


# --- what it sees ---------------------------------------------------------------------------------

SEES = {
    "argv": "import sys; print(sys.argv, sys.argv[0] == __file__)",
    "its file": "print(__file__, __name__, __doc__, __spec__, __package__, __cached__)",
    "names of its module": "print(sorted(globals()), __annotations__, type(__builtins__))",
    "its loader": "print(type(__loader__).__name__, __loader__.path)",
    "sys.path": "import sys; print(sys.path)",
    "sys.modules": "import sys; print(sorted(sys.modules))",
    "modules after an import": (
        "import sys, json, dataclasses\nprint([m in sys.modules for m in ('torch', 'numpy', 'json')])"
    ),
    "flags": "import sys; print(sys.flags, sys.warnoptions, sys._xoptions, sys.dont_write_bytecode)",
    "the interpreter": "import sys; print(sys.executable, sys.prefix, sys.version, sys.orig_argv)",
    "streams": (
        "import sys\n"
        "for s in (sys.stdin, sys.stdout, sys.stderr):\n"
        "    print(s, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through, s.newlines,\n"
        "          s.isatty(), s.fileno(), s.seekable(), s.buffer, s.buffer.raw)\n"
        "print(sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__)"
    ),
    "the folder": "import os; print(os.getcwd(), os.path.abspath('x'))",
    "the environment": "import os; print(sorted(os.environ.items()))",
    "the C environment": "import subprocess; print(subprocess.check_output(['env']).decode())",
    "umask": "import os; print(oct(os.umask(0)))",
    "limits": (
        "import resource as r\n"
        "print([(n, r.getrlimit(getattr(r, n))) for n in dir(r) if n.startswith('RLIMIT')])"
    ),
    "signals": (
        "import signal\n"
        "print([(s.name, signal.getsignal(s)) for s in sorted(signal.Signals)])\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        # Signal 33 is libc's own, caught by whoever has ever had a second thread.
        "import re; s = re.findall(r'Sig(?:Blk|Ign|Cgt):\\s(.*)', open('/proc/self/status').read())\n"
        "print([hex(int(v, 16) & ~(1 << 32)) for v in s])"
    ),
    "descriptors": "import os; print(sorted(os.listdir('/proc/self/fd')))",
    "threads": (
        "import threading\nt = threading.main_thread()\n"
        "print(t is threading.current_thread(), t.name, type(t), threading.active_count(), t.daemon)\n"
        "import os; print(len(os.listdir('/proc/self/task')), os.getpid() == threading.get_native_id())"
    ),
    "the stack": (
        "import traceback, sys, inspect\ntraceback.print_stack(file=sys.stdout)\n"
        "print(len(inspect.stack()), sys._getframe().f_back)"
    ),
    "warnings": (
        "import warnings\nprint(warnings.filters)\nwarnings.warn('look')\n"
        "warnings.warn('old', DeprecationWarning)\nwarnings.warn('up', stacklevel=9)"
    ),
    "logging": "import logging\nlogging.warning('w')\nprint(logging.root.handlers[0].stream.name)",
    "time zone": "import time; print(time.tzname, time.localtime(0).tm_hour)",
    "encodings": "import sys, locale; print(sys.getfilesystemencoding(), locale.getpreferredencoding())",
    "identity": "import os; print(os.getuid(), os.getgroups(), os.nice(0), sorted(os.sched_getaffinity(0)))",
    "gc": "import gc; print(gc.isenabled(), gc.get_threshold(), gc.garbage)",
    "its child's view": (
        "import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-c', 'import sys; print(sys.path, sys.argv)'],\n"
        "      capture_output=True, text=True).stdout)"
    ),
    "a module of its own": "import beside; print(beside.__file__ is not None, beside.x)",
    "import errors": "import nothing_of_this_name",
    "find_spec": (
        "import sys\nfrom importlib.util import find_spec\n"
        "s = find_spec('torch'); print(s.name, s.origin, s.submodule_search_locations, 'torch' in sys.modules)\n"
        "print(find_spec('json').origin, find_spec('no_such'))"
    ),
    "lazy submodules": "import numpy, sys; print(numpy.random.default_rng(1).integers(9), numpy.fft.fft([1]))",
    "what imports set": "import os, torch; print(os.environ.get('TORCHINDUCTOR_CACHE_DIR'))",
    "source of a library": (
        "import inspect\nfrom diffusers import UNet2DConditionModel as U\nfrom transformers import CLIPTextModel as C\n"
        "print(inspect.getsourcefile(U), inspect.getsourcefile(C), inspect.getmodule(C).__name__)"
    ),
}


@pytest.mark.parametrize("text", SEES.values(), ids=SEES.keys())
def test_script_sees_what_it_sees_under_python(pair: Pair, text: str) -> None:
    (pair.folder / "beside.py").write_text("x = 1")
    pair.same(pair.script(text), "a b", "--json", "-x", "", "字")


@pytest.mark.slow
def test_what_imports_say_is_said(pair: Pair) -> None:
    text = "from diffusers import StableDiffusionPipeline as S; print(S.__module__)"
    real, ours = pair.both(pair.script(text))
    assert said(ours) == said(real)


# --- what it is given -----------------------------------------------------------------------------

ECHO = "import sys, os\nprint(sys.argv, sys.stdin and sys.stdin.read(), os.environ.get('GIVEN'))"


def test_arguments_that_are_no_text(pair: Pair) -> None:
    pair.same(
        pair.script("import sys, os; print([os.fsencode(a) for a in sys.argv])"),
        b"\xff\xfe",
        b"a\nb",
    )


def test_a_script_whose_name_is_no_text(pair: Pair) -> None:
    (pair.folder / os.fsdecode(b"\xff.py")).write_text("import os; print(os.fsencode(__file__))")
    pair.same(b"\xff.py")


@pytest.mark.parametrize(
    "given", [b"", b"one\ntwo\r\n", "字\n".encode(), b"\xff\n", b"x" * 300_000]
)
def test_standard_input(pair: Pair, given: bytes) -> None:
    pair.same(
        pair.script("import sys; t = sys.stdin.buffer.read(); print(len(t), t[:20])"), input=given
    )
    pair.same(pair.script("import sys; print(ascii(sys.stdin.readline())[:80])"), input=given)


def test_input_prompts(pair: Pair) -> None:
    pair.same(pair.script("print(input('name? ')); print(input())"), input=b"a\n")


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "</", "<script.py"])
def test_streams_that_are_closed_or_odd(pair: Pair, closing: str) -> None:
    pair.script(
        "import sys; print(sys.stdin, sys.stdout, sys.stderr); sys.stderr and print(2, file=sys.stderr)"
    )
    pair.shell(f'"$@" script.py {closing}')


def test_further_descriptors_keep_their_numbers(pair: Pair) -> None:
    pair.script(
        "import os, sys; print([os.read(n, 9) for n in (3, 7, 61)], open(sys.argv[1]).read())"
    )
    for n in "abc":
        (pair.folder / n).write_text(n)
    assert b"[b'a', b'b', b'c'] d" in pair.shell('"$@" script.py <(echo d) 3<a 7<b 61<c').stdout


def test_a_pipe_that_nobody_reads(pair: Pair) -> None:
    pair.script("import sys\nfor n in range(100000): print(n)")
    pair.shell('"$@" script.py | head -1; echo ${PIPESTATUS[0]}')


GIVEN = {
    "umask": "umask 027; ",
    "soft limits": "ulimit -S -n 300 -c 0; ",
    "an ignored signal": "trap '' INT USR1; ",
    "nohup": "nohup ",
    "a priority": "nice -n 3 ",
    "one processor": "taskset -c 0 ",
    "another folder": "mkdir -p sub/字; cd sub/字; ",
    "no environment": "env -i PATH=$PATH XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR ",
    "a variable that is no text": "env $'GIVEN=\\xff' ",
    "the C locale": "env LANG=C ",
    "another zone": "env TZ=Asia/Shanghai ",
    "unbuffered": "env PYTHONUNBUFFERED=1 ",
    "warnings": "env PYTHONWARNINGS=error ",
    "a path": "env PYTHONPATH=/nowhere ",
    "a path from here": "env PYTHONPATH=:sub ",
    "an encoding": "env PYTHONIOENCODING=latin-1:replace ",
    "a language": "env LANGUAGE=de_DE ",
    "a hash seed": "env PYTHONHASHSEED=7 ",
    "a fault handler": "env PYTHONFAULTHANDLER=1 ",
}
LOOK = """
import os, resource, signal, sys, time, warnings
import faulthandler
print(os.getcwd(), sys.path, sys.flags, sys.warnoptions, warnings.filters, sys.stdout.write_through)
print(oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_NOFILE), os.nice(0), os.sched_getaffinity(0))
print([signal.getsignal(s) for s in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE)])
print([(k, ascii(v)) for k, v in sorted(os.environ.items()) if k != '_'], time.tzname, faulthandler.is_enabled())
print(sys.stdin, sys.stdout, sys.stderr, sys.getfilesystemencoding(), sys.flags.hash_randomization)
if sys.flags.hash_randomization == 0 or os.environ.get("PYTHONHASHSEED"): print(hash("a"))
"""


@pytest.mark.parametrize("before", GIVEN.values(), ids=GIVEN.keys())
def test_script_has_what_its_caller_has(pair: Pair, before: str) -> None:
    script = pair.folder / pair.script(LOOK)
    pair.shell(f'{before}"$@" {script}')


def test_a_folder_that_was_deleted(pair: Pair) -> None:
    script = pair.folder / pair.script(
        "import os, sys\nprint(sys.path[0])\ntry: os.getcwd()\nexcept OSError as e: print(e)"
    )
    pair.shell(f'mkdir gone; cd gone; rmdir ../gone; "$@" {script}')


# --- what can be run ------------------------------------------------------------------------------


def test_what_is_no_script(pair: Pair) -> None:
    pair.same("missing.py")
    pair.same(str(pair.folder))
    (pair.folder / "empty.py").touch()
    pair.same("empty.py")
    (pair.folder / "loop.py").symlink_to("loop.py")
    pair.same("loop.py")


def test_other_spellings_of_a_script(pair: Pair) -> None:
    (pair.folder / "sub").mkdir()
    (pair.folder / "sub" / "real.py").write_text(
        "import sys; print(__file__, sys.path[0], sys.argv)"
    )
    (pair.folder / "link.py").symlink_to("sub/real.py")
    for name in ("./sub/real.py", "sub/../sub/real.py", "link.py", str(pair.folder / "link.py")):
        pair.same(name)


def test_folders_archives_modules_and_code(pair: Pair) -> None:
    (pair.folder / "app").mkdir()
    (pair.folder / "app" / "__main__.py").write_text(
        "import sys; print(__file__, __name__, __package__, sys.path[0], sys.argv)\nsys.argv[1:] and 1/0"
    )
    pair.same("app", "x")
    pair.same("-m", "app", "x")
    shutil.make_archive(str(pair.folder / "app"), "zip", pair.folder / "app")
    pair.same("app.zip", "x")
    (pair.folder / "mod.py").write_text(
        "import sys; print(__file__, __spec__.name, sys.path[0], sys.argv); sys.exit('so')"
    )
    pair.same("-m", "mod", "x", "--help")
    pair.same("-m", "no_such_module")
    pair.same(
        "-c", "import sys; print(sys.argv, sys.path[0], __name__, globals().keys()); 1/0", "-x"
    )
    pair.same("-m", "json.tool", input=b'{"a": 1}')


def test_byte_code(pair: Pair) -> None:
    import py_compile

    py_compile.compile(
        str(pair.folder / pair.script("print(__file__)")), cfile=str(pair.folder / "code.pyc")
    )
    pair.same("code.pyc")
