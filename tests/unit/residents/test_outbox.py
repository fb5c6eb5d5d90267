import contextlib
import os
import select
import socket

import pytest

from harness.daemon import until
from harness.standin import sealed
from zhcache.protocol import frames, residency
from zhcached.api.outbox import MAX_NEWS, MAX_UNREAD, Outbox


@pytest.fixture
def line():
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def pair():
    """As ``line``, with the buffers that the kernel gives."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def returned(number, size=0):
    fields = {"text": "x" * size}
    return residency.Returned(id=number, class_name="x", fields=fields, seconds=0)


def received(theirs):
    events = []
    while True:
        try:
            event, fds = frames.receive(theirs, residency.ToClient)
        except EOFError:
            return events
        frames.close_all(fds)
        events.append(event)


class Memory:
    """Makes sealed memory and knows whether any of it is still open in this process.

    By inode: other tests' threads in this process have memory of the same name.
    """

    def __init__(self):
        self.made = set()

    def __call__(self, content):
        fd = sealed(content)
        self.made.add(identity(os.fstat(fd)))
        return fd

    def is_open(self):
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if identity(os.fstat(int(fd))) in self.made:
                    return True
        return False


def identity(stat):
    return stat.st_dev, stat.st_ino


def test_events_come_in_order_and_the_channel_ends_after_the_last(line):
    ours, theirs = line
    with Outbox(ours) as outbox:
        for number in range(1, 4):
            outbox.tell(returned(number), is_last=number == 3)
        outbox.tell(returned(4))
        assert [event.id for event in received(theirs)] == [1, 2, 3]


def test_descriptors_are_closed_whatever_becomes_of_their_event(line):
    ours, theirs = line
    memory = Memory()
    with Outbox(ours) as outbox:
        outbox.tell(returned(1), [memory(b"sent")])
        outbox.tell(returned(2, size=10**6), [memory(b"stuck")])
        outbox.tell(returned(3), [memory(b"waits")])
        theirs.close()
    outbox.tell(returned(4), [memory(b"late")])
    assert (len(memory.made), memory.is_open()) == (4, False)


def test_old_progress_gives_way_to_results(line):
    ours, theirs = line
    with Outbox(ours) as outbox:
        outbox.tell(returned(1, size=10**6))
        for step in range(3 * MAX_NEWS):
            outbox.tell(residency.Step(id=2, step=step, total=9, timestep=0.0))
        outbox.tell(returned(2), is_last=True)
        events = received(theirs)
    steps = [event.step for event in events if isinstance(event, residency.Step)]
    assert (len(steps) <= MAX_NEWS, steps[-1]) == (True, 3 * MAX_NEWS - 1)
    assert [event.id for event in events if isinstance(event, residency.Returned)] == [1, 2]


def test_client_that_lets_results_gather_is_let_go(line):
    ours, theirs = line
    memory = Memory()
    with Outbox(ours) as outbox:
        outbox.tell(returned(1, size=10**6))
        for number in range(2, MAX_NEWS + 4):
            outbox.tell(returned(number), [memory(b"pixels")] if number > MAX_NEWS else [])
        events = received(theirs)
    # Whichever was on its way came; the rest did not.
    assert [event.id for event in events] in ([1, 0], [0])
    assert (events[-1].error.code, memory.is_open()) == ("busy", False)


def sparse(memory, size):
    fd = os.memfd_create("sparse")
    os.truncate(fd, size)
    memory.made.add(identity(os.fstat(fd)))
    return fd


def test_client_that_lets_much_memory_gather_is_told_and_let_go(pair):
    ours, theirs = pair
    memory = Memory()
    with Outbox(ours) as outbox:
        for number in range(1, 7):
            outbox.tell(returned(number), [sparse(memory, MAX_UNREAD * 6 // 10)])
        # Its next call is not heard, whoever serves it sees the end.
        assert ours.recv(1) == b""
        *_, last = received(theirs)
    assert (last.id, last.error.code, memory.is_open()) == (0, "busy", False)
    assert "bytes together were not read" in last.error.message


def test_few_answers_lie_in_the_socket_unread(pair):
    ours, theirs = pair
    memory = Memory()
    with Outbox(ours) as outbox:
        for number in range(1, 41):
            outbox.tell(returned(number), [sparse(memory, MAX_UNREAD // 10)])
            until(lambda: not (outbox._unread and is_writable(ours)), "it is sent or held back")
        events = received(theirs)
    # The few that the least buffer takes, one that was to follow, and the error.
    assert (events[-1].id, len(events) < 10) == (0, True)


def is_writable(line):
    return bool(select.select([], [line], [], 0)[1])


def test_one_answer_may_be_larger_than_all_that_may_wait(pair):
    ours, theirs = pair
    with Outbox(ours) as outbox:
        for number in (1, 2):
            outbox.tell(returned(number), [sparse(Memory(), 4 * MAX_UNREAD)], is_last=number == 2)
            event, fds = frames.receive(theirs, residency.ToClient)
            frames.close_all(fds)
            assert event.id == number
