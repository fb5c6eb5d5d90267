"""The client's side of stopping, with this test as the keeper."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.daemon import DEADLINE_S, until
from zhcache.forkserver.wire import Ended, Pass, Stopped
from zhcache.protocol import frames

CLIENT = """
import signal, socket, sys
from zhcache.forkserver import client
before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - client._KEPT_BACK)
client._attend(socket.socket(fileno=int(sys.argv[1])), before)
"""


@pytest.fixture
def client():
    """A client in a group of its own: as in a shell's job, there is somebody to continue it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(DEADLINE_S)
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
        theirs.close()
        yield process, ours
        process.kill()
        process.wait()


def passed(line):
    word, _ = frames.receive(line, Pass)
    return word.signal


def signalled(process, line, number):
    """Sends a signal once the client listens: before that it would end by it."""
    status = Path(f"/proc/{process.pid}/status")
    until(lambda: "Threads:\t2" in status.read_text(), "the client takes signals")
    process.send_signal(number)
    assert passed(line) == number


def state_of(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_stop_of_a_script_that_was_continued_since_stops_no_client(client):
    process, line = client
    signalled(process, line, signal.SIGTSTP)
    signalled(process, line, signal.SIGCONT)
    frames.send(line, Stopped(signal=signal.SIGTSTP, continued=0))
    frames.send(line, Ended(code=5))
    assert process.wait(DEADLINE_S) == 5


def test_client_stops_with_its_script_and_passes_on_that_it_is_continued(client):
    process, line = client
    for continued in range(3):
        signalled(process, line, signal.SIGTSTP)
        frames.send(line, Stopped(signal=signal.SIGTSTP, continued=continued))
        until(lambda: state_of(process) == "T", "the client has stopped")
        os.kill(process.pid, signal.SIGCONT)
        assert passed(line) == signal.SIGCONT
    frames.send(line, Ended(code=5))
    assert process.wait(DEADLINE_S) == 5
