"""The process that is in torrents, when it hangs: another takes its place."""

from __future__ import annotations

import os
import signal

import pytest

from harness.daemon import until
from zhcached.errors import TransportError
from zhcached.swarm import process as processes
from zhcached.swarm.process import Process
from zhcached.swarm.words import ALIVE_EVERY_S, Fetch, Opening

# More than a pipe holds.
WORDY = Fetch("ab" * 32, 2**30, bytes(2**20), "folder", [])


@pytest.fixture
def running(tmp_path, monkeypatch):
    brief = {"FIRST_REST_S": 0.05, "ENDING_S": 0.1, "TAKEN_S": 0.2, "HUNG_S": 2 * ALIVE_EVERY_S}
    for name, seconds in brief.items():
        monkeypatch.setattr(processes, name, seconds)
    opening = Opening(
        address="127.0.0.1",
        port=0,
        networks=[("127.0.0.0", "127.255.255.255")],
        blobs=str(tmp_path),
        incoming=str(tmp_path / "incoming"),
        given=0,
    )
    process = Process(opening, lambda event: None, list)
    process.start()
    until(lambda: process.port, "it listens")
    yield process
    process.stop()


def test_one_that_takes_no_words_is_replaced(running):
    first = running.pid
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(TransportError, match="takes no words"):
        running.tell(WORDY)
    until(lambda: running.port and running.pid not in (None, first), "another listens")


def test_one_that_says_nothing_is_replaced(running):
    first = running.pid
    os.kill(first, signal.SIGSTOP)
    until(lambda: running.port and running.pid not in (None, first), "another listens")
