import fcntl
import os
import signal
import struct
import termios
from pathlib import Path

import pytest

from harness.daemon import until
from harness.memory import can_drop, drop, in_memory
from zhcached.residency.pages.locks import Locks

SIZE = 2**20


@pytest.fixture
def locks():
    made = Locks()
    yield made
    made.close()


@pytest.fixture
def file(tmp_path, locks):
    if not can_drop(tmp_path):
        pytest.skip("files here never leave memory")
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    if not lock(locks, path, name="probe"):
        pytest.skip("no memory may be locked here")
    locks.unlock("probe")
    return path


def lock(locks, path: Path, name: str = "a") -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return locks.lock(name, fd, path.stat().st_size)
    finally:
        os.close(fd)


def test_locked_file_stays_in_memory_until_it_is_unlocked(locks, file):
    assert lock(locks, file)
    drop(file)
    assert locks.is_locked("a")
    assert in_memory(file) == SIZE
    locks.unlock("a")
    drop(file)
    assert not locks.is_locked("a")
    assert in_memory(file) == 0


def test_locked_file_stays_in_memory_when_its_name_is_gone(locks, file):
    assert lock(locks, file)
    with file.open("rb") as opened:
        file.unlink()
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert locks.is_locked("a")


def test_holder_asks_to_be_ended_first(locks, file):
    assert lock(locks, file)
    assert Path(f"/proc/{locks.pid}/oom_score_adj").read_text() == "1000\n"


def test_holder_has_no_environment_of_ours(locks, file, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert lock(locks, file)
    assert b"hf_secret" not in Path(f"/proc/{locks.pid}/environ").read_bytes()


def test_nothing_is_locked_once_the_holder_was_killed_and_the_next_lock_works(locks, file):
    assert lock(locks, file)
    first = locks.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: not locks.is_locked("a"), "its death is noticed")
    locks.unlock("a")
    assert lock(locks, file)
    assert locks.pid != first


def test_holder_ends_with_its_daemon(locks, file):
    assert lock(locks, file)
    pid = locks.pid
    locks._line.close()
    until(lambda: locks._process.poll() is not None, f"process {pid} ends")


def unread(line):
    """Returns the bytes that the other side has not read. Source: unix(7), SIOCOUTQ."""
    return struct.unpack("i", fcntl.ioctl(line, termios.TIOCOUTQ, bytes(4)))[0]


def test_close_does_not_wait_for_a_lock_that_takes_long(locks, file):
    assert lock(locks, file)
    os.kill(locks.pid, signal.SIGSTOP)
    import threading

    answers = []
    asking = threading.Thread(target=lambda: answers.append(lock(locks, file, "b")))
    asking.start()
    until(lambda: unread(locks._line), "the question is asked")
    locks.close()
    asking.join(10)
    assert answers == [False]
    assert not lock(locks, file)
