"""Clients that mean harm, and clients that do not read."""

import fcntl
import os
import socket
import struct

import pytest

from harness.daemon import until
from harness.standin import sealed
from zhcache.errors import UsageError
from zhcache.protocol import frames, residency
from zhcached.residency.resident import sealed as border


def leftovers():
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")}  # fmt: skip


def memfd(size=3, seals=border.NEEDED):
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def pipe():
    reads, writes = os.pipe()
    os.close(writes)
    return reads


@pytest.mark.parametrize(
    ("make_fd", "why"),
    [
        (lambda: memfd(seals=0), "not sealed"),
        (lambda: memfd(seals=border.NEEDED & ~fcntl.F_SEAL_WRITE), "not sealed"),
        (lambda: memfd(seals=border.NEEDED & ~fcntl.F_SEAL_SHRINK), "not sealed"),
        (lambda: memfd(seals=border.NEEDED & ~fcntl.F_SEAL_GROW), "not sealed"),
        (lambda: memfd(size=border.MAX_BYTES + 1), "the limit is"),
        (lambda: os.open("/dev/zero", os.O_RDONLY), "no memfd"),
        (pipe, "no memfd"),
        (lambda: os.open("/", os.O_PATH), "no memfd"),
    ],
)
def test_memory_that_is_not_settled_never_reaches_a_worker(make, make_fd, why):
    client = make().client()
    client.opened()
    fd = make_fd()
    failed = client.end_of(client.call([fd]))
    os.close(fd)
    assert (failed.error.code, why in failed.error.message) == ("usage", True)
    assert client.do().fields["nth"] == 1
    assert not any("hostile" in name for name in leftovers())


def test_more_than_one_descriptor_is_refused(make):
    client = make().client()
    fds = [sealed(b"a"), sealed(b"b")]
    failed = client.end_of(client.call(fds))
    for fd in fds:
        os.close(fd)
    assert (failed.error.code, client.do().fields["nth"]) == ("usage", 1)


def test_memory_of_all_calls_of_one_user_is_bounded(make, monkeypatch):
    monkeypatch.setattr("zhcached.residency.resident.calls.MAX_BLOBS", 5)
    client = make().client()
    client.opened()
    client.call(do="wait")
    fd = sealed(b"abc")
    first, second = client.call([fd]), client.call([fd])
    os.close(fd)
    assert client.end_of(second).error.code == "busy"
    client.cancel(first)
    client.end_of(first)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x00\x00\x05hello",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x02{}",
        b'\x00\x00\x00\x17{"event":"load","id":1}',
        b"\x00\x01\x00\x00" + b"[" * 0x10000,
    ],
)
def test_garbage_ends_only_the_conversation_it_came_in(make, raw):
    house = make()
    hostile, other = house.client(uid=1), house.client(uid=2)
    hostile.opened()
    hostile.line.sendall(raw)
    failed = hostile.until(residency.Failed)
    assert (failed.id, failed.error.code) == (0, "usage")
    with pytest.raises(EOFError):
        hostile.next()
    assert other.do().fields["nth"] == 1


def test_client_that_ends_inside_a_frame_leaves_nothing(make, store):
    client = make().client()
    client.opened()
    client.line.sendall(struct.pack(">I", 100) + b"{")
    client.close()
    assert store.leases.counts() == {}


@pytest.mark.parametrize("number", [0, -1, 1])
def test_id_that_is_none_or_taken_ends_the_conversation(make, number):
    client = make().client()
    client.opened()
    client.call(id=1, do="wait")
    frames.send(client.line, residency.Call(id=number, arguments={}))
    failed = client.until(residency.Failed)
    assert (failed.id, failed.error.code) == (0, "usage")


def test_nobody_speaks_of_anothers_call(make):
    house = make()
    mine, hostile = house.client(uid=1), house.client(uid=2)
    number = mine.call(do="wait", steps=1, wants_steps=True)
    mine.until(residency.Step)
    for guess in range(50):
        hostile.cancel(guess)
    waits = hostile.call()
    assert hostile.until(residency.Queued, number=waits).position == 1
    mine.cancel(number)
    assert hostile.end_of(waits).fields["nth"] == 2


def test_client_that_does_not_read_is_let_go_and_holds_nobody_up(make):
    house = make()
    deaf, other = house.client(uid=1), house.client(uid=2)
    other.opened()
    text = "x" * 2**18
    deaf.line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.line.settimeout(5)
    with pytest.raises(OSError, match=r"(?i)broken pipe|reset"):
        for number in range(1, 10**4):
            call = residency.Call(id=number, arguments={"prompt": text})
            frames.send(deaf.line, call)
            other.do()
    assert "got" in other.do().fields


def test_one_user_cannot_take_all_sessions(make, monkeypatch):
    monkeypatch.setattr("zhcached.residency.resident.seats.MAX_SEATS_PER_UID", 2)
    house = make()
    kept = [house.client(uid=1) for _ in range(2)]
    for client in kept:
        client.opened()
    assert house.client(uid=1).next().error.code == "busy"
    assert house.client(uid=2).opened().repo == "lab/one"
    kept[0].close()
    assert house.client(uid=1).opened().repo == "lab/one"


class Hears:
    """A listener that keeps what it is told."""

    def __init__(self):
        self.events = []

    def tell(self, event, fds=(), *, is_last=False):
        frames.close_all(fds)
        self.events.append(event)


def test_call_after_the_refusal_touches_nothing_of_the_instance_that_is_gone(make):
    house = make(ram=999, keep_alive=0)
    hears = Hears()
    request = residency.ResidentRequest(repo="lab/one", device="cpu")
    session = house.residents.open(request, os.getuid(), os.getpid(), hears)
    until(lambda: not house.residents.listing(), "the instance is gone")
    # Its descriptor is closed and the number may be anybody's: a ring would be written there.
    assert session.line.instances[0].wakeup.fd < 0
    with pytest.raises(UsageError, match="no pipeline open"):
        session.call(residency.Call(id=1, arguments={}), [], 10)
    session.leave()
    assert [e.error.code for e in hears.events if isinstance(e, residency.Failed)] == ["no_space"]


def test_call_that_grows_over_the_limit_ends_alone(make):
    client = make().client()
    client.opened()
    pid = client.do().fields["pid"]
    # Twelve bytes more for each number once it is written as this side writes it.
    head, tail = b'{"event":"call","id":7,"arguments":{"a":[', b"1e15]}}"
    body = head + b"1e15," * (2**20) + tail
    client.line.settimeout(30)
    client.line.sendall(struct.pack(">I", len(body)) + body)
    failed = client.end_of(7)
    assert (failed.error.code, "too many words" in failed.error.message) == ("usage", True)
    client.ids = iter(range(8, 99))
    assert client.do().fields["pid"] == pid
