"""``zhcache exec`` in a terminal: what is typed, what the window is, what a shell may stop."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest

from harness.daemon import until
from harness.sidebyside import Pair

pytestmark = pytest.mark.journey

DEADLINE_S = 40.0
WAYS = ["python", "zhcache"]


class Terminal:
    """A pseudo-terminal with one program in it, as a shell or a terminal window would start it."""

    def __init__(self, command: list[str], pair: Pair) -> None:
        self.seen = ""
        pid, self.line = pty.fork()
        if pid == 0:
            os.chdir(pair.folder)
            os.execvpe(command[0], command, pair.environ | {"PS1": "", "TERM": "dumb"})
        self.pid = pid
        self.resize(24, 80)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.line, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.line, text.encode())

    def until(self, pattern: str) -> re.Match[str]:
        """Waits for a text that was not waited for yet."""
        end = time.monotonic() + DEADLINE_S
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f"{pattern!r} did not come: {self.seen!r}"
            if select.select([self.line], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.line, 65536).decode(errors="replace")
                except OSError:
                    assert re.search(pattern, self.seen), f"it ended: {self.seen!r}"
        self.seen = self.seen[found.end() :]
        return found

    def ended(self) -> int:
        """Waits for the program's end; returns its exit code, or its signal as a negative one."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if select.select([self.line], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.line, 65536).decode(errors="replace")
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it has not ended: {self.seen!r}")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.line)


@pytest.fixture
def terminals(pair: Pair) -> Iterator:
    """Returns a function that starts a program in a terminal of its own."""
    # Started beforehand, so that what is typed meets a script and not the imports.
    pair.run(pair.zhcache, ["-c", "pass"])
    made: list[Terminal] = []

    def start(*command: str) -> Terminal:
        made.append(Terminal(list(command), pair))
        return made[-1]

    yield start
    for terminal in made:
        terminal.close()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, pair: Pair) -> list[str]:
    """Either way to run a script: what a test expects holds for both."""
    return list(getattr(pair, request.param))


def test_streams_are_a_terminal_of_its_size(pair: Pair, terminals, way: list[str]) -> None:
    pair.script(
        "import os, sys, shutil\n"
        "print([os.isatty(n) for n in (0, 1, 2)], sys.stdout.line_buffering, os.ttyname(0)[:4])\n"
        "print(shutil.get_terminal_size(), input('? '))"
    )
    terminal = terminals(*way, "script.py")
    terminal.until(r"\[True, True, True\] True /dev")
    terminal.until(r"columns=80, lines=24\)|\? ")
    terminal.type("答\n")
    terminal.until("lines=24\\) 答")
    assert terminal.ended() == 0


def test_window_that_changes_is_told(pair: Pair, terminals, way: list[str]) -> None:
    pair.script(
        "import os, signal\n"
        "def told(*_):\n"
        "    os.write(1, b'now %d' % os.get_terminal_size().columns); os._exit(0)\n"
        "signal.signal(signal.SIGWINCH, told)\n"
        "os.write(1, b'ready')\nwhile True: signal.pause()"
    )
    terminal = terminals(*way, "script.py")
    terminal.until("ready")
    terminal.resize(50, 132)
    terminal.until("now 132")
    assert terminal.ended() == 0


def test_ctrl_c_interrupts_the_script_and_its_children(pair: Pair, terminals, way) -> None:
    # Written by the system call: a handler may find the stream in the middle of a print. It ends
    # later than the interrupt: a wait that is interrupted as it succeeds loses the exit code.
    pair.script(
        "import os, signal, time\n"
        "def told(*_):\n    os.write(1, b'child too'); time.sleep(0.5); os._exit(3)\n"
        "signal.signal(signal.SIGINT, told)\nos.write(1, b'ready')\nwhile True: signal.pause()",
        "child.py",
    )
    pair.script(
        "import subprocess, sys\nchild = subprocess.Popen([sys.executable, 'child.py'])\n"
        "try:\n    child.wait()\nexcept KeyboardInterrupt:\n"
        "    print('caught', child.wait())\n    raise\n"
    )
    terminal = terminals(*way, "script.py")
    terminal.until("ready")
    terminal.type("\x03")
    terminal.until("child too")
    terminal.until("caught 3")
    terminal.until("KeyboardInterrupt")
    assert terminal.ended() == -signal.SIGINT


def test_ctrl_backslash_quits(pair: Pair, terminals, way: list[str]) -> None:
    pair.script("import time; print('ready', flush=True); time.sleep(60)")
    terminal = terminals(*way, "script.py")
    terminal.until("ready")
    terminal.type("\x1c")
    assert terminal.ended() == -signal.SIGQUIT


def test_ctrl_d_ends_the_input(pair: Pair, terminals, way: list[str]) -> None:
    pair.script("try:\n    input('? ')\nexcept EOFError:\n    print('end')")
    terminal = terminals(*way, "script.py")
    terminal.until(r"\? ")
    terminal.type("\x04")
    terminal.until("end")
    assert terminal.ended() == 0


def test_password_is_not_shown(pair: Pair, terminals, way: list[str]) -> None:
    pair.script("import getpass; print('was', getpass.getpass('key: ')[::-1])")
    terminal = terminals(*way, "script.py")
    terminal.until("key: ")
    terminal.type("secret\n")
    assert "secret" not in terminal.until("was terces").string
    assert terminal.ended() == 0


def test_terminal_that_is_closed_hangs_up_the_script(pair: Pair, terminals, way) -> None:
    mark = pair.folder / "hung-up"
    pair.script(
        "import signal, sys, pathlib, time\n"
        f"def end(*_):\n    pathlib.Path({str(mark)!r}).touch(); sys.exit()\n"
        "signal.signal(signal.SIGHUP, end)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    terminal = terminals(*way, "script.py")
    terminal.until("ready")
    os.close(terminal.line)
    terminal.line = os.open("/dev/null", os.O_RDONLY)
    until(mark.exists, "the script hears of it", DEADLINE_S)


def test_shell_stops_and_continues_the_script(pair: Pair, terminals, way: list[str]) -> None:
    # Woken by the byte that a signal writes: one that comes just before a read of the terminal
    # leaves its handler waiting for the read's end, under python as well.
    pair.script(
        "import os, select, signal, sys\nwoken, wake = os.pipe()\nos.set_blocking(wake, False)\n"
        "signal.set_wakeup_fd(wake)\nsignal.signal(signal.SIGCONT, lambda *_: None)\n"
        "os.write(1, b'ready')\nselect.select([woken], [], [])\nos.write(1, b'continued\\n')\n"
        "print('got', input())\nsys.exit(6)"
    )
    terminal = terminals("bash", "--norc", "-i")
    terminal.type(" ".join(way) + " script.py\n")
    terminal.until("ready")
    terminal.type("\x1a")
    terminal.until("Stopped")
    terminal.type("jobs -l; echo at the $((40 + 2)) prompt\n")
    terminal.until("at the 42 prompt")
    terminal.type("fg\n")
    terminal.until("continued")
    terminal.type("line\n")
    terminal.until("got line")
    terminal.type("echo code $?; exit\n")
    terminal.until("code 6")


def test_script_in_the_background_is_brought_to_the_foreground(pair, terminals, way) -> None:
    pair.script("import time\nprint('ready', flush=True)\ntime.sleep(60)")
    terminal = terminals("bash", "--norc", "-i")
    terminal.type(" ".join(way) + " script.py &\n")
    terminal.until("ready")
    terminal.type("fg\n")
    terminal.until("script.py")
    until(lambda: os.tcgetpgrp(terminal.line) != terminal.pid, "the terminal is the job's")
    terminal.type("\x03")
    terminal.until("KeyboardInterrupt")
    terminal.type("echo code $?; exit\n")
    terminal.until("code 130")


def test_nobody_can_continue_an_orphan_so_it_is_not_stopped(pair, terminals, way) -> None:
    # The terminal's own program has no shell above it.
    pair.script("import sys\nprint('ready', flush=True)\nprint('got', input()); sys.exit(2)")
    terminal = terminals(*way, "script.py")
    terminal.until("ready")
    terminal.type("\x1a")
    terminal.type("line\n")
    terminal.until("got .*line")
    assert terminal.ended() == 2


def test_signals_of_other_processes_reach_the_script_alone(pair: Pair, way: list[str]) -> None:
    pair.script(
        "import signal, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "def end(*_):\n    print('child runs' if child.poll() is None else 'child died')\n"
        "    child.kill(); child.wait(); sys.exit(11)\n"
        "signal.signal(signal.SIGTERM, end)\nsignal.signal(signal.SIGRTMIN + 3, end)\n"
        "print('ready', flush=True)\nwhile True: signal.pause()"
    )
    for number in (signal.SIGTERM, signal.SIGRTMIN + 3):
        with subprocess.Popen(
            [*way, "script.py"], cwd=pair.folder, env=pair.environ, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.stdout.read() == b"child runs\n"
        assert process.returncode == 11
