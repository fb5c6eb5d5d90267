"""Asking for arenas on the handover socket: what comes, what is refused, what is waited for."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from zhcache import handover
from zhcache.errors import Busy, DaemonUnreachable, NotPermitted
from zhcache.handover import attach
from zhcache.protocol import frames
from zhcache.protocol.failure import to_info
from zhcache.protocol.residency import (
    Arena,
    Attached,
    AttachRequest,
    Failed,
    Progress,
    Table,
)
from zhcache.waiting import line as shown_line
from zhcache.waiting import shown

REQUEST = AttachRequest(lease="l1", device="cpu", components=["unet"])


@pytest.fixture
def front(tmp_path: Path):
    """Returns a function: what the front does with the connection once it has the request."""
    api = tmp_path / "api.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "handover.sock"))
    listener.listen()
    threads = []

    def serve(answer) -> Path:
        def run() -> None:
            line, _ = listener.accept()
            with line:
                request, _ = frames.receive(line, AttachRequest)
                assert request == REQUEST
                answer(line)

        threads.append(threading.Thread(target=run))
        threads[0].start()
        return api

    yield serve
    listener.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def arena(component: str) -> Arena:
    table = Table(component=component, library="diffusers", class_name="X", tensors=[])
    return Arena(key=f"k-{component}", device="cpu", bytes=512, table=table)


def memory(text: bytes) -> int:
    fd = os.memfd_create("x")
    os.write(fd, text)
    return fd


def test_arenas_come_with_their_descriptors_after_progress(front):
    def answer(line):
        frames.send(line, Progress(note="copying unet", bytes_done=1, bytes_total=4))
        fds = [memory(b"unet"), memory(b"vae")]
        frames.send(line, Attached(arenas=[arena("unet"), arena("vae")]), fds)
        frames.close_all(fds)

    told = []
    got = attach(front(answer), REQUEST, told.append)
    assert [event.note for event in told] == ["copying unet"]
    assert {a.table.component: os.pread(fd, 9, 0) for a, fd in got} == {
        "unet": b"unet",
        "vae": b"vae",
    }
    assert not any(os.get_inheritable(fd) for _, fd in got)
    frames.close_all([fd for _, fd in got])


def test_refusal_is_raised_as_what_it_is(front):
    refusal = NotPermitted("lease {id} belongs to another user", id="l1")
    api = front(lambda line: frames.send(line, Failed(error=to_info(refusal))))
    with pytest.raises(NotPermitted, match="lease l1"):
        attach(api, REQUEST)


def test_answer_with_fewer_descriptors_than_arenas_is_none(front):
    def answer(line):
        fd = memory(b"unet")
        frames.send(line, Attached(arenas=[arena("unet"), arena("vae")]), [fd])
        os.close(fd)

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DaemonUnreachable):
        attach(front(answer), REQUEST)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_front_that_goes_away_is_unreachable(front):
    with pytest.raises(DaemonUnreachable):
        attach(front(lambda line: None), REQUEST)


def test_waiting_ends_at_its_time_though_there_is_progress(front):
    ended = threading.Event()

    def answer(line):
        while not ended.is_set():
            try:
                frames.send(line, Progress(note="waiting for room"))
            except OSError:
                return
            ended.wait(0.01)

    api = front(answer)
    with pytest.raises(Busy, match="not on the device yet"):
        attach(api, REQUEST, until=time.monotonic() + 0.1)
    ended.set()


def test_front_that_hangs_is_not_waited_for_for_ever(front, monkeypatch):
    monkeypatch.setattr(handover, "_SILENCE_S", 0.05)
    ended = threading.Event()
    with pytest.raises(DaemonUnreachable, match="timed out"):
        attach(front(lambda line: ended.wait(10)), REQUEST)
    ended.set()


class Terminal:
    """What is written to a stream that says whether it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        self.text, self._is_terminal = "", is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_what_is_waited_for_is_shown_on_a_terminal_and_gone_afterwards():
    event = Progress(note="copying unet", bytes_done=1, bytes_total=4)
    assert shown_line(event) == "zhcache: copying unet, 25 %"
    assert len(shown_line(Progress(note="x" * 500))) < 80
    terminal, file = Terminal(is_terminal=True), Terminal(is_terminal=False)
    for stream in (terminal, file):
        with shown(stream) as show:
            show(event)
    assert file.text == ""
    assert "copying unet, 25 %" in terminal.text
    assert terminal.text.endswith("\r")
