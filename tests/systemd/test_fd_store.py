"""Arenas live on while the daemon is killed and started anew: the manager keeps their memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from harness.attachkit import REPO, House, client_command, read
from harness.daemon import until
from harness.manager import Manager

pytest.importorskip("aiohttp", reason="needs the daemon's extra")
WEIGHTS = {"unet": b"u" * 3000, "vae": b"v" * 1000}


@pytest.fixture
def manager(tmp_path):
    with contextlib.closing(Manager(tmp_path)) as made:
        yield made


@pytest.fixture
def house(tmp_path):
    with contextlib.closing(House(tmp_path)) as made:
        yield made


@pytest.fixture
def client(house):
    made: list[subprocess.Popen[str]] = []

    def start():
        made.append(
            subprocess.Popen(
                client_command(house),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        )
        assert made[-1].stdout.readline() == "attached\n"
        return made[-1]

    yield start
    for each in made:
        each.kill()
        each.communicate()


def seen(client):
    client.stdin.write("\n")
    client.stdin.flush()
    return client.stdout.readline()


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_restart_under_an_attached_client_needs_no_second_fill(house, manager, client, end):
    manager.start(house.daemon)
    first = client()
    before = seen(first)
    until(lambda: len(manager.names()) == 2, "the manager keeps the memory")
    getattr(house.daemon, end)()
    assert seen(first) == before
    manager.start(house.daemon)
    second = client()
    assert seen(second) == seen(first) == before
    assert len(house.control.starts) == 1


def test_client_of_before_holds_its_arenas_until_it_ends(house, manager, client):
    house.daemon.configure(house.daemon.config.read_text() + 'keep_alive = "1s"\n')
    manager.start(house.daemon)
    first = client()
    until(lambda: len(manager.names()) == 2, "the manager keeps the memory")
    house.daemon.kill()
    manager.start(house.daemon)
    rows = house.daemon.json("ps")["resident"]
    assert [(row["repo"], row["leases"]) for row in rows if row["bytes"]] == [(REPO, 1)]
    first.kill()
    first.wait()
    until(lambda: manager.names() == [], "the memory goes with its last user")


def test_socket_of_the_manager_and_kept_memory_come_together(house, manager):
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(house.daemon.socket))
        listener.listen(16)
        manager.start(house.daemon, listener)
        with house.lease() as lease:
            assert read(house.attach(lease.granted.id)) == WEIGHTS
        until(lambda: len(manager.names()) == 2, "the manager keeps the memory")
        house.daemon.kill()
        manager.start(house.daemon, listener)
        with house.lease() as lease:
            assert read(house.attach(lease.granted.id)) == WEIGHTS
        assert len(house.control.starts) == 1


def test_daemon_killed_while_it_fills_leaves_nothing_behind(house, manager, client):
    house.control.do("gate")
    manager.start(house.daemon)
    lease = house.lease()
    line = house.dial()
    with line:
        from zhcache.protocol import frames
        from zhcache.protocol.residency import AttachRequest

        frames.send(line, AttachRequest(lease=lease.granted.id, device="cpu"))
        worker = house.control.pid()
        house.daemon.kill()
    until(lambda: not os.path.exists(f"/proc/{worker}"), "the worker ends with its daemon")
    assert manager.names() == []
    house.control.do()
    manager.start(house.daemon)
    assert seen(client())
