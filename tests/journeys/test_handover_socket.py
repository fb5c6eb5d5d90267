"""The handover socket of a real daemon: who gets memory, and clients that behave badly."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading

import pytest

from harness.attachkit import REPO, House, attached, read, refusal
from harness.daemon import until
from harness.otheruser import open_way
from zhcache.errors import (
    Busy,
    DaemonUnreachable,
    NotFound,
    NotPermitted,
    UsageError,
    VersionMismatch,
)
from zhcache.protocol import frames
from zhcache.protocol.residency import AttachRequest

pytestmark = pytest.mark.journey
WEIGHTS = {"unet": b"u" * 3000, "vae": b"v" * 1000}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with contextlib.closing(House(tmp_path_factory.mktemp("house"))) as made:
        made.daemon.start()
        yield made


def open_files(house):
    return len(os.listdir(f"/proc/{house.daemon.process.pid}/fd"))


def answers(house):
    """Whether a good client is served."""
    with house.lease() as lease:
        return read(house.attach(lease.granted.id)) == WEIGHTS


def test_lease_says_that_weights_come_as_arenas_and_they_come(house):
    with house.lease() as lease:
        assert lease.granted.host == "arenas"
        assert read(house.attach(lease.granted.id)) == WEIGHTS
        assert read(house.attach(lease.granted.id, components=["vae"])) == {"vae": b"v" * 1000}


def test_end_of_the_lease_ends_the_hold(house):
    with house.lease() as lease:
        read(house.attach(lease.granted.id))
        assert [row["leases"] for row in house.daemon.json("ps")["resident"]] == [1]
    until(
        lambda: not any(row["leases"] for row in house.daemon.json("ps")["resident"]),
        "nobody holds it",
    )


def test_ended_lease_gives_nothing(house):
    with house.lease() as lease:
        ended = lease.granted.id
    until(lambda: isinstance(_failure(house, ended), NotFound), "the lease ends")


def _failure(house, lease):
    try:
        read(house.attach(lease))
    except NotFound as error:
        return error
    return None


@pytest.mark.skipif("os.geteuid() != 0", reason="needs root to become another user")
def test_another_users_lease_gives_nothing(house):
    script = """
import os, socket, sys
from harness.attachkit import attached
from zhcache.protocol import frames
from zhcache.protocol.residency import AttachRequest
os.setuid(4321)
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
frames.send(line, AttachRequest(lease=sys.argv[2], device="cpu"))
try:
    attached(line)
except Exception as error:
    print(type(error).__name__)
"""
    os.chmod(house.handover, 0o666)
    open_way(house.daemon.folder)
    with house.lease() as lease:
        done = subprocess.run(
            [sys.executable, "-c", script, str(house.handover), lease.granted.id],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
    assert done.stdout == f"{NotPermitted.__name__}\n", done.stderr


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        (b"", UsageError, "malformed"),
        (b"\xff\xfe", UsageError, "malformed"),
        (b"[" * 50_000, UsageError, "malformed"),
        (b'{"op":"attach"}', UsageError, "malformed"),
        (b'{"op":"attach","lease":7,"device":"cpu"}', UsageError, "malformed"),
        (b'{"op":"format the disk"}', UsageError, "does not know the request"),
        (b'{"op":"attach","protocol":99}', VersionMismatch, "protocol 99"),
        (b'{"op":"attach","lease":"none","device":"cpu"}', NotFound, "no lease none"),
    ],
)
def test_what_cannot_be_meant_is_refused(house, raw, kind, words):
    error = house.say(raw)
    assert isinstance(error, kind)
    assert words in str(error)


def test_device_that_is_not_there_is_refused(house):
    with house.lease() as lease:
        for device in ("GPU-00000000-0000-0000-0000-000000000000", "tpu", "../cpu"):
            with pytest.raises(UsageError):
                house.attach(lease.granted.id, device)


def test_frame_over_the_limit_is_refused_before_it_is_read(house):
    with house.dial() as line:
        line.sendall(struct.pack(">I", 2**31))
        assert isinstance(refusal(line), UsageError)


def test_descriptors_that_nobody_asked_for_are_not_kept(house):
    assert answers(house)
    before = open_files(house)
    with house.dial() as line, open(os.devnull) as null:
        head = b'{"op":"attach","lease":"none","device":"cpu"}'
        body = struct.pack(">I", len(head)) + head
        # In several messages, since all that is sent at once could be taken with one read.
        for byte in body:
            socket.send_fds(line, [bytes([byte])], [null.fileno()] * 250)
        refusal(line)
    until(lambda: open_files(house) <= before, "they are closed")


def test_client_that_hangs_up_at_any_point_costs_nothing(house):
    assert answers(house)
    before = open_files(house)
    head = b'{"op":"attach","lease":"x","device":"cpu"}'
    body = struct.pack(">I", len(head)) + head
    for cut in range(0, len(body) + 1, 5):
        with house.dial() as line:
            line.sendall(body[:cut])
    until(lambda: open_files(house) <= before, "their connections end")
    assert answers(house)


def test_slow_clients_hold_up_nobody(house):
    with contextlib.ExitStack() as held:
        for _ in range(100):
            line = held.enter_context(house.dial())
            line.sendall(b"\0\0")
        assert answers(house)


def test_flood_is_refused_and_ends_with_its_connections(house):
    lines = [house.dial() for _ in range(300)]
    refused = []
    for line in lines[256:]:
        with contextlib.suppress(OSError, EOFError):
            refused.append(refusal(line))
    assert refused
    assert all(isinstance(error, Busy) for error in refused)
    for line in lines:
        line.close()
    until(lambda: _served(house), "others are served again")


def _served(house):
    with contextlib.suppress(Busy):
        return answers(house)
    return False


def test_large_heads_are_few_at_once(house):
    large = struct.pack(">I", 10 * 2**20)
    with contextlib.ExitStack() as held:
        lines = [held.enter_context(house.dial()) for _ in range(9)]
        for line in lines:
            line.sendall(large + b"{" * 1000)
        found = []

        def read_one(line):
            with contextlib.suppress(OSError, EOFError):
                found.append(refusal(line))

        threads = [threading.Thread(target=read_one, args=(line,), daemon=True) for line in lines]
        for thread in threads:
            thread.start()
        until(lambda: found, "the ninth is refused")
        assert isinstance(found[0], Busy)
        assert answers(house)


def test_who_hangs_up_while_it_waits_ends_the_fill(house, tmp_path):
    with contextlib.closing(House(tmp_path)) as own:
        own.daemon.start()
        own.control.do("gate")
        with own.lease() as lease, own.dial() as line:
            frames.send(line, AttachRequest(lease=lease.granted.id, device="cpu"))
            worker = own.control.pid()
            line.close()
            until(lambda: not os.path.exists(f"/proc/{worker}"), "the worker ends")


def test_stop_of_the_daemon_ends_a_wait_with_an_error(tmp_path):
    with contextlib.closing(House(tmp_path)) as own:
        own.daemon.start()
        own.control.do("gate")
        with own.lease() as lease, own.dial() as line:
            frames.send(line, AttachRequest(lease=lease.granted.id, device="cpu"))
            worker = own.control.pid()
            assert own.daemon.stop() == 0
            with pytest.raises((DaemonUnreachable, EOFError, OSError)):
                attached(line)
        until(lambda: not os.path.exists(f"/proc/{worker}"), "the worker ends")


def test_attach_without_a_lease_over_http_is_impossible(house):
    assert isinstance(house.say(b'{"op":"attach","lease":"","device":"cpu"}'), NotFound)


def test_lease_of_a_daemon_with_local_files_says_so(tmp_path):
    with contextlib.closing(House(tmp_path, '[store]\nmin_free = "0"\n')) as own:
        own.daemon.start()
        with own.lease() as lease:
            assert lease.granted.host == "files"
            assert lease.granted.repo == REPO
