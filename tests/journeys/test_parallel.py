"""One image over two devices, by a worker of the real daemon: the same image, whatever happens."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.daemon import source, until

POSSIBLE = "from zhcached.workers.parallel import namespace; namespace.enter()"

pytestmark = [
    pytest.mark.journey,
    pytest.mark.skipif(
        subprocess.run([sys.executable, "-c", POSSIBLE], capture_output=True).returncode != 0,
        reason="this kernel lets nobody make a network of his own here",
    ),
]

OPEN = """
import json, sys
import zhcache
GIVEN = dict(seed=7, num_inference_steps=4, width=64, height=64)
def apart(one, other):
    pairs = zip(one.images[0].tobytes(), other.images[0].tobytes(), strict=True)
    return max(abs(a - b) for a, b in pairs)
pipe = zhcache.load_pipeline("org/pipe", device=["cpu", "cpu"], placement="parallel")
"""

SAME = (
    OPEN
    + """
alone = zhcache.load_pipeline("org/pipe", mode="resident", device="cpu")
one, two = alone("a red house", **GIVEN), pipe("a red house", **GIVEN)
print(json.dumps([apart(one, two), list(pipe.devices), pipe.memory_report, repr(pipe),
                  len(pipe(["a", "b"], seed=[1, 2], num_inference_steps=2).images)]))
"""
)

KILLED = (
    OPEN
    + """
from zhcache.errors import WorkerDied
before = pipe("a red house", **GIVEN)
def begun(pipe, step, timestep, tensors):
    if step == 0:
        print("midway", flush=True)
try:
    pipe("x", num_inference_steps=900, callback_on_step_end=begun)
except WorkerDied as error:
    told = [error.message, error.hint]
print(json.dumps([told, apart(before, pipe("a red house", **GIVEN))]), flush=True)
"""
)

# Two users: one whose call is interrupted, then lost with its rank, and one who waits meanwhile.
WAITING = (
    OPEN
    + """
import threading
other = zhcache.load_pipeline("org/pipe", device=["cpu", "cpu"], placement="parallel")
before = pipe("a red house", **GIVEN)
def said(pipe, step, timestep, tensors):
    if step == 0:
        print("midway", flush=True)
try:
    pipe("x", num_inference_steps=900, callback_on_step_end=said)
except KeyboardInterrupt:
    print(apart(before, other("a red house", **GIVEN)), flush=True)
made = []
waiting = threading.Thread(target=lambda: made.append(other("a red house", **GIVEN)))
def begun(*step):
    if step[1] == 0:
        waiting.start()
    said(*step)
try:
    pipe("x", num_inference_steps=900, callback_on_step_end=begun)
except zhcache.ZhcacheError as error:
    print(error.code, flush=True)
waiting.join()
print(apart(before, made[0]), flush=True)
"""
)

REFUSED = """
import zhcache
try:
    zhcache.load_pipeline("org/pipe", device="cpu", placement="parallel")
except zhcache.UsageError as error:
    print(error.hint)
try:
    zhcache.load_pipeline("org/pipe", device=["cpu"] * 3, placement="parallel")
except zhcache.UsageError as error:
    print(error.message)
"""


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    started = make_daemon(source(hub)).start()
    started.json("prefetch", "org/pipe")
    return started


def resident(daemon) -> dict:
    listed = json.loads(daemon.cli("ps", "--json").stdout)["resident"]
    return next(one for one in listed if one["mode"] == "resident")


def worker(daemon) -> int:
    return resident(daemon)["pid"]


def queued(daemon) -> int:
    return resident(daemon)["queued"]


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_image_of_two_devices_is_the_one_of_one_and_says_how_it_was_made(daemon):
    out, errors = daemon.script(SAME).communicate(timeout=120)
    assert out, (errors, daemon.tail())
    difference, devices, report, shown, several = json.loads(out)
    assert difference <= 1
    assert devices == ["cpu", "cpu"]
    assert report.startswith("cfg over 2 devices: ")
    assert "cpu, cpu" in shown
    assert several == 2


def test_killed_rank_ends_the_call_with_its_name_and_the_next_call_works(daemon):
    client = daemon.script(KILLED)
    assert client.stdout.readline() == "midway\n", (client.stderr.read(), daemon.tail())
    first = worker(daemon)
    (rank,) = children(first)
    os.kill(rank, signal.SIGKILL)
    out, errors = client.communicate(timeout=120)
    assert out, (errors, daemon.tail())
    (message, hint), difference = json.loads(out)
    assert "rank 1 of 2, on cpu, ended" in message
    assert "call again" in hint
    assert difference == 0
    assert not Path(f"/proc/{rank}").exists()


@pytest.mark.slow
def test_interrupted_call_leaves_the_ranks_in_step_and_who_waits_loses_nothing_by_a_rank(daemon):
    client = daemon.script(WAITING)

    def told() -> str:
        line = client.stdout.readline().strip()
        assert line, (client.stderr.read(), daemon.tail())
        return line

    assert told() == "midway"
    client.send_signal(signal.SIGINT)
    assert [told(), told()] == ["0", "midway"]
    assert until(lambda: queued(daemon) == 1, "the other user waits")
    (rank,) = children(worker(daemon))
    os.kill(rank, signal.SIGKILL)
    assert [told(), told()] == ["worker_died", "0"]
    client.communicate(timeout=60)


def test_what_cannot_share_an_image_is_refused_with_a_next_step(daemon):
    out, errors = daemon.script(REFUSED).communicate(timeout=120)
    hint, message = out.splitlines() or [errors, daemon.tail()]
    assert "name several" in hint
    assert message == "the guidance of StableDiffusionPipeline is split over 2 devices, not 3"
