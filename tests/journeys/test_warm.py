"""Warm on the CPU: what another process finds in memory, and for how long."""

import json
import os
import signal
import subprocess
import sys

import pytest

from harness.daemon import DEADLINE_S, Daemon, source, until
from harness.memory import can_drop, drop, in_memory, lock_limited
from harness.otheruser import open_way

pytestmark = pytest.mark.journey

INDEX = b'{"_class_name": "Tiny", "unet": ["diffusers", "UNet2DConditionModel"]}'
SIZE = 3 * 2**20
HOLD = """
import sys, zhcache
with zhcache.Client() as client, client.lease(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def pipeline(weights: bytes) -> dict[str, bytes]:
    return {
        "model_index.json": INDEX,
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": weights,
    }


@pytest.fixture
def config(hub, tmp_path):
    if not can_drop(tmp_path):
        pytest.skip("files here never leave memory")
    hub.add("org/pipe", pipeline(os.urandom(SIZE)))
    hub.add("org/more", pipeline(os.urandom(SIZE)))
    return source(hub)


@pytest.fixture
def daemon(config, make_daemon):
    return make_daemon(config).start()


def weights(daemon):
    (largest,) = [path for path in daemon.blobs().values() if path.stat().st_size == SIZE]
    return largest


def rows(daemon):
    return daemon.json("ps")["resident"]


def holder(daemon, repo="org/pipe") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, repo],
        env=daemon.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


def lockable(daemon, *options):
    """Makes the model warm, or skips the test where the system lets nothing be locked."""
    result = daemon.json("warm", "org/pipe", *options)
    if not result["locked"]:
        pytest.skip("no memory may be locked here")
    return result


def test_warm_fetches_and_another_process_finds_it_in_memory(daemon):
    daemon.cli("prefetch", "org/pipe")
    drop(weights(daemon))
    assert in_memory(weights(daemon)) == 0
    result = daemon.json("warm", "org/pipe", "--for", "1h")
    assert result["bytes"] == result["bytes_resident"] == SIZE + len(INDEX) + 2
    assert in_memory(weights(daemon)) == SIZE
    (row,) = rows(daemon)
    assert row["bytes_resident"] == row["bytes"] == result["bytes"]
    assert (row["leases"], row["device"], row["uid"]) == (0, "cpu", os.getuid())
    assert row["expires"] == result["expires"]


def test_warm_of_what_is_absent_fetches_it(daemon):
    assert daemon.json("warm", "org/pipe")["bytes_resident"] > SIZE
    assert [job["kind"] for job in daemon.json("jobs")["jobs"]] == ["warm", "prefetch"]


@pytest.mark.parametrize("device", ["cuda:7", "MIG-00000000-0000-0000-0000-000000000000/1"])
def test_nothing_is_fetched_for_a_device_that_is_not_there(daemon, device):
    for command in (("warm", "org/pipe"), ("run", "org/pipe", "a prompt")):
        error = daemon.json(*command, "--device", device, code=2)["error"]
        assert error["message"] == f"there is no device {device} here"
        assert error["hint"].startswith("there is: cpu")
    assert daemon.json("jobs")["jobs"] == []


def test_warm_pages_are_not_taken_until_stop_lets_them_go(daemon):
    lockable(daemon, "--for", "forever")
    drop(weights(daemon))
    assert in_memory(weights(daemon)) == SIZE
    assert rows(daemon)[0]["expires"] is None
    stopped = daemon.json("stop", "org/pipe")
    assert (stopped["repo"], stopped["devices"]) == ("org/pipe", ["cpu"])
    drop(weights(daemon))
    assert in_memory(weights(daemon)) == 0
    assert rows(daemon) == []
    assert daemon.json("stop", "org/pipe", code=4)["error"]["code"] == "not_found"


def test_warm_expires(daemon):
    daemon.json("warm", "org/pipe", "--for", "1s")
    until(lambda: not rows(daemon), "its time is over")
    drop(weights(daemon))
    assert in_memory(weights(daemon)) == 0


def test_lease_is_counted_and_keeps_what_is_warm_from_being_stopped(daemon):
    daemon.json("warm", "org/pipe", "--for", "1s")
    process = holder(daemon)
    (row,) = rows(daemon)
    assert row["leases"] == 1
    refused = daemon.json("stop", "org/pipe", code=75)["error"]
    assert f"process {process.pid} of uid {os.getuid()}" in refused["message"]
    assert daemon.json("stop", "org/pipe", "--force")["devices"] == ["cpu"]
    process.communicate("\n", timeout=DEADLINE_S)
    until(lambda: not rows(daemon), "the lease ends")


def test_leased_model_that_was_never_warm_is_busy_too(daemon):
    daemon.json("prefetch", "org/pipe")
    process = holder(daemon)
    assert daemon.json("stop", "org/pipe", code=75)["error"]["code"] == "busy"
    process.communicate("\n", timeout=DEADLINE_S)


def test_pages_may_go_when_the_daemon_is_killed_and_come_back_with_the_next(daemon):
    lockable(daemon, "--for", "forever")
    daemon.kill()
    file = weights(daemon)

    def is_dropped():
        drop(file)
        return in_memory(file) == 0

    until(is_dropped, "what held them ends with the daemon")
    daemon.start()
    until(lambda: in_memory(file) == SIZE, "they are read again")
    until(lambda: rows(daemon)[0]["locked"], "and locked")


def test_what_may_not_be_locked_is_read_again_and_says_so(config, make_daemon):
    class Unlockable(Daemon):
        def start(self, **environ):
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [*lock_limited(), sys.executable, "-m", "zhcached"],
                    stdout=log, stderr=log, env=self.environ | environ, start_new_session=True,
                )  # fmt: skip
            until(lambda: self._answers() or self._died(), "the daemon answers")
            return self

    daemon = make_daemon(config)
    daemon.__class__ = Unlockable
    daemon.start()
    assert not daemon.json("warm", "org/pipe", "--for", "forever")["locked"]
    drop(weights(daemon))
    assert in_memory(weights(daemon)) == 0
    until(lambda: in_memory(weights(daemon)) == SIZE, "it is read again")
    assert not rows(daemon)[0]["locked"]


def test_killed_holder_costs_the_lock_and_nothing_else(daemon):
    lockable(daemon, "--for", "forever")
    found = subprocess.run(
        ["pgrep", "-P", str(daemon.process.pid), "-f", "residency.pages.holder"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    os.kill(int(found.stdout), signal.SIGKILL)
    until(lambda: not rows(daemon)[0]["locked"], "ps says so")
    assert daemon.json("warm", "org/pipe")["locked"]


def test_model_larger_than_the_budget_has_no_room(config, make_daemon):
    daemon = make_daemon(config + '[residency]\nram = "1MiB"\n').start()
    assert daemon.json("warm", "org/pipe", code=6)["error"]["code"] == "no_space"
    assert rows(daemon) == []


def test_idle_model_goes_for_a_new_one_and_a_used_one_does_not(config, make_daemon):
    daemon = make_daemon(config + '[residency]\nram = "5MiB"\n').start()
    daemon.json("warm", "org/pipe")
    daemon.json("warm", "org/more")
    assert [row["repo"] for row in rows(daemon)] == ["org/more"]
    process = holder(daemon, "org/more")
    assert str(process.pid) in daemon.json("warm", "org/pipe", code=75)["error"]["message"]
    process.communicate("\n", timeout=DEADLINE_S)


def test_removed_model_is_no_longer_warm(daemon):
    daemon.json("warm", "org/pipe", "--for", "forever")
    daemon.json("rm", "org/pipe")
    until(lambda: not rows(daemon), "it is let go")


@pytest.mark.parametrize(
    "options",
    [
        ["--device", "tpu"],
        ["--device", "GPU-00000000-0000-0000-0000-000000000000"],
        ["--variant", "int3"],
    ],
)
def test_request_that_cannot_be_meant_is_a_usage_error(daemon, options):
    daemon.cli("prefetch", "org/pipe")
    assert daemon.json("warm", "org/pipe", *options, code=2)["error"]["code"] == "usage"


@pytest.mark.skipif("os.geteuid() != 0", reason="needs root to become another user")
def test_other_user_may_not_stop_what_one_keeps(daemon):
    daemon.json("warm", "org/pipe", "--for", "forever")
    body = '{"repo": "org/pipe"}'
    request = (
        "POST /v1/unload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    script = (
        "import os, socket, sys; os.setuid(4321); line = socket.socket(socket.AF_UNIX)\n"
        "line.connect(sys.argv[1]); line.sendall(sys.argv[2].encode())\n"
        "while part := line.recv(9999): print(part.decode(), end='')"
    )
    os.chmod(daemon.socket, 0o666)
    open_way(daemon.folder)
    done = subprocess.run(
        [sys.executable, "-c", script, str(daemon.socket), request], capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    error = json.loads(done.stdout.partition("\n\n")[2])["error"]
    assert error["code"] == "not_permitted"
    assert f"uid {os.getuid()}" in error["message"]
    assert len(rows(daemon)) == 1
