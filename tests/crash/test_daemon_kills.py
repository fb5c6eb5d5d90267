"""The daemon dies at any moment of a prefetch; what it leaves is whole, and the rest goes on."""

import os
import random
import signal

import pytest

from harness.daemon import sent_so_far, source, until
from zhcached.store.failpoints import NAMES

pytestmark = pytest.mark.crash

SIZE = 30_000_000
CONNECTIONS = 2
# One journal step is what may come between two syncs of an ingest: 32 MiB, or one second's worth.
RATE = 1_500_000


def ingests(daemon):
    return [path for path in (daemon.home / "ingest").glob("*") if path.is_dir()]


def test_random_kills_lose_at_most_a_journal_step_each(hub, make_daemon):
    chance = random.Random(20261122)
    hub.add("org/name", {"model.safetensors": os.urandom(SIZE)})
    hub.fault("rate", path="model.safetensors", rate=RATE)
    config = source(hub) + f"[download]\nconnections = {CONNECTIONS}\n"
    daemon = make_daemon(config)
    kills = 0
    for _ in range(4):
        daemon.start()
        daemon.cli("prefetch", "org/name", "--detach")
        mark = sent_so_far(hub, "model.safetensors") + chance.randrange(2_000_000)
        until(lambda mark=mark: sent_so_far(hub, "model.safetensors") > mark, "some of it comes")
        daemon.kill()
        kills += 1
    hub.heal()
    daemon.start()
    assert daemon.json("prefetch", "org/name")["bytes"] == SIZE
    assert daemon.json("verify")["damaged"] == []
    assert ingests(daemon) == []
    twice = hub.sent("model.safetensors") - SIZE
    # A second's worth of each connection, what was under way in buffers, and the line's slack.
    assert twice < kills * CONNECTIONS * (RATE * 1.5 + 2**20)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("commit", "publish"))])
def test_kill_at_a_named_point_leaves_a_store_that_goes_on(hub, make_daemon, name):
    hub.add("org/name", {"config.json": b"{}", "model.safetensors": os.urandom(9_000_000)})
    daemon = make_daemon(source(hub)).start(ZHCACHE_FAILPOINTS=f"{name}=kill")
    daemon.cli("prefetch", "org/name", "--detach", check=False)
    until(lambda: daemon.process.poll() is not None, f"the daemon dies at {name}")
    assert daemon.process.returncode == -signal.SIGKILL
    daemon.start()
    result = daemon.json("prefetch", "org/name")
    assert result["files"] == 2
    assert daemon.json("verify")["damaged"] == []
    assert ingests(daemon) == []
    assert len(daemon.blobs()) == 2
    assert daemon.cli("path", "org/name").stdout.strip() == result["path"]


@pytest.mark.skipif("os.geteuid() != 0", reason="needs root to mount a small file system")
def test_full_disk_ends_clearly_and_the_download_goes_on_when_there_is_room(hub, make_daemon):
    import subprocess

    hub.add("org/name", {"model.safetensors": os.urandom(20_000_000)})
    daemon = make_daemon(source(hub))
    daemon.home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", daemon.home], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here: " + mounted.stderr.decode())
    try:
        daemon.start()
        refused = daemon.json("prefetch", "org/name", code=6)
        assert refused["error"]["code"] == "no_space"
        assert daemon.json("ls")["snapshots"] == []
        subprocess.run(["mount", "-o", "remount,size=64M", daemon.home], check=True)
        assert daemon.json("prefetch", "org/name")["bytes"] == 20_000_000
        # Full to the last byte: the index cannot grow, and reads are still served.
        filler = daemon.home / "filler"
        with filler.open("wb") as stream:
            try:
                while True:
                    stream.write(bytes(2**16))
                    stream.flush()
            except OSError:
                pass
        hub.add("org/other", {"config.json": b"{1}"})
        assert daemon.cli("prefetch", "org/other", check=False).returncode == 6
        assert daemon.cli("path", "org/name").returncode == 0
        filler.unlink()
        assert daemon.json("prefetch", "org/other")["files"] == 1
    finally:
        daemon.stop()
        subprocess.run(["umount", "-l", daemon.home], check=False)
