"""A lease lives exactly as long as its holder."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulators.daemon import DaemonSimulator
from zhcache.client import Client
from zhcache.errors import NotFound

HOLDER = """
import os, sys, zhcache
client = zhcache.Client(spawn=False)
lease = client.lease("a/b")
print(lease.granted.id, flush=True)
if sys.argv[1] == "fork" and os.fork() == 0:
    print("forked", flush=True)
sys.stdin.read()
"""


def test_lease_holds_the_snapshot_until_it_ends(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.hold("a/b", snapshot)
    with client.lease("a/b") as lease:
        assert lease.path == snapshot
        assert list(daemon.leases) == [lease.granted.id]
        assert client.resident()[0].repo == "a/b"
    assert daemon.lease_ended.wait(10)
    assert daemon.leases == {}
    lease.end()


def test_lease_ends_when_it_is_collected(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.hold("a/b", snapshot)
    lease = client.lease("a/b")
    assert lease.is_live
    del lease
    gc.collect()
    assert daemon.lease_ended.wait(10)


def test_lease_of_what_is_not_held_is_not_found(daemon: DaemonSimulator, client: Client) -> None:
    with pytest.raises(NotFound):
        client.lease("a/b")


def test_lease_ends_when_the_client_is_killed(daemon: DaemonSimulator, snapshot: Path) -> None:
    daemon.hold("a/b", snapshot)
    with _holder("plain") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() in daemon.leases
        holder.kill()
        assert daemon.lease_ended.wait(10)


def test_lease_ends_with_its_process_when_a_forked_child_lives_on(
    daemon: DaemonSimulator, snapshot: Path
) -> None:
    daemon.hold("a/b", snapshot)
    with _holder("fork") as holder:
        assert holder.stdout is not None
        lines = {holder.stdout.readline().strip() for _ in range(2)}
        assert "forked" in lines
        holder.kill()
        assert daemon.lease_ended.wait(10)
        os.killpg(holder.pid, signal.SIGKILL)


def _holder(mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
