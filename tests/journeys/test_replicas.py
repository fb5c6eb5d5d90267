"""A list of prompts over two workers of the real daemon: the same images, whatever happens."""

import json
import os
import signal

import pytest

from harness import controlled
from harness.daemon import source

pytestmark = pytest.mark.journey

OPEN = """
import hashlib, json, sys
import zhcache
def sums(result):
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in result.images]
PROMPTS = [f"a red house {number}" for number in range(16)]
GIVEN = dict(seed=list(range(16)), num_inference_steps=2)
LARGE = dict(seed=[1, 2], num_inference_steps=2, width=256, height=256)
"""

BOTH = (
    OPEN
    + """
pipe = zhcache.load_pipeline("org/pipe", device=["cpu", "cpu"], placement="replicate")
one = zhcache.load_pipeline("org/pipe", mode="resident", device="cpu")
many = sums(pipe(PROMPTS, **GIVEN))
print(json.dumps([len(many), many == sums(one(PROMPTS, **GIVEN)), len(set(many)),
                  many[5] == sums(one(PROMPTS[5], seed=5, num_inference_steps=2))[0],
                  # So large that the number of threads shows in the last bits.
                  sums(pipe(PROMPTS[:2], **LARGE)) == sums(one(PROMPTS[:2], **LARGE)),
                  list(pipe.devices)]))
"""
)

# Long enough that both workers are in the middle of a call when the test kills one.
KILLED = (
    OPEN
    + """
pipe = zhcache.load_pipeline("org/pipe", device=["cpu", "cpu"], placement="replicate")
GIVEN["num_inference_steps"] = 4
before = sums(pipe(PROMPTS, **GIVEN))
print("ready", flush=True)
sys.stdin.readline()
seen, told = [], []
def step(pipe, number, timestep, tensors):
    seen.append(number)
    if number >= 20 and not told:
        told.append(number)
        print("midway", flush=True)
after = sums(pipe(PROMPTS, **GIVEN, callback_on_step_end=step))
print(json.dumps([before == after, seen[-1] == 63 and seen == sorted(set(seen))]))
"""
)


# Each step waits for a line, where the test has something to do first.
TROUBLE = (
    OPEN
    + """
PROMPTS, GIVEN = PROMPTS[:6], dict(seed=list(range(6)), num_inference_steps=2)
pipe = zhcache.load_pipeline("org/pipe", device=["cpu", "cpu"], mode="resident")
before = sums(pipe(PROMPTS, **GIVEN))
try:
    pipe(PROMPTS, **GIVEN, guidance_scale="much")
    print("made", flush=True)
except zhcache.ZhcacheError as error:
    print("refused" if "not supported between" in str(error) else error, flush=True)
def step(pipe, number, timestep, tensors):
    if number == 0:
        print("midway", flush=True)
try:
    pipe(PROMPTS, seed=list(range(6)), num_inference_steps=900, callback_on_step_end=step)
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
print(sums(pipe(PROMPTS, **GIVEN)) == before, flush=True)
sys.stdin.readline()
print(sums(pipe(PROMPTS, **GIVEN)) == before, flush=True)
together = sums(pipe(PROMPTS, **GIVEN, batch=4))
one = zhcache.load_pipeline("org/pipe", mode="resident", device=["cpu"])
unseeded = sums(pipe(PROMPTS, num_inference_steps=2))
print(together == sums(one(PROMPTS, **GIVEN, batch=4)), len(unseeded), flush=True)
"""
)


CONTROLLED = (
    OPEN
    + """
from PIL import Image
pipe = zhcache.load_pipeline("org/pipe", device=["cpu", "cpu"], placement="replicate")
one = zhcache.load_pipeline("org/pipe", mode="resident", device="cpu")
shapes = [Image.linear_gradient("L").resize((64, 64)).rotate(90 * n).convert("RGB") for n in (0, 1)]
given = dict(num_inference_steps=2)
for name, more in {
    None: {"image": shapes},
    "StableDiffusionControlNetPipeline": {"image": shapes},
    "StableDiffusionControlNetImg2ImgPipeline": {"image": shapes, "control_image": shapes[::-1]},
}.items():
    both, alone = [each.using(name) if name else each for each in (pipe, one)]
    many = sums(both(prompt=PROMPTS[:2], seed=[1, 2], **given, **more))
    singly = []
    for n in (0, 1):
        own = {key: value[n] for key, value in more.items()}
        singly += sums(alone(prompt=PROMPTS[n], seed=n + 1, **given, **own))
    print(many == singly, len(set(many)), flush=True)
"""
)


def serving(hub, make_daemon, folder):
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    started = make_daemon(source(hub)).start()
    started.json("prefetch", "org/pipe")
    return started


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir):
    return serving(hub, make_daemon, pipeline_dir)


def workers(daemon):
    shown = daemon.json("ps")["resident"]
    return [one["pid"] for one in shown if one["mode"] == "resident" and one["pid"]]


def test_two_workers_make_what_one_makes_and_each_image_is_its_seeds_alone(daemon):
    out, errors = daemon.script(BOTH).communicate(timeout=240)
    assert out, (errors, daemon.tail())
    assert json.loads(out) == [16, True, 16, True, True, ["cpu", "cpu"]]


def test_worker_killed_midway_costs_no_image(daemon):
    client = daemon.script(KILLED)
    assert client.stdout.readline() == "ready\n", (client.stderr.read(), daemon.tail())
    pids = workers(daemon)
    assert len(pids) == 2
    client.stdin.write("\n")
    client.stdin.flush()
    assert client.stdout.readline() == "midway\n", (client.stderr.read(), daemon.tail())
    os.kill(pids[0], signal.SIGKILL)
    out, errors = client.communicate(timeout=240)
    assert out, (errors, daemon.tail())
    assert json.loads(out) == [True, True]
    assert "resident.died" in daemon.tail()


@pytest.mark.slow
def test_error_interrupt_and_restart_leave_a_set_that_makes_the_same(daemon):
    client = daemon.script(TROUBLE)

    def told():
        line = client.stdout.readline().strip()
        assert line, (client.stderr.read(), daemon.tail())
        return line

    def go_on():
        client.stdin.write("\n")
        client.stdin.flush()

    assert [told(), told()] == ["refused", "midway"]
    client.send_signal(signal.SIGINT)
    assert told() == "interrupted"
    shown = [one for one in daemon.json("ps")["resident"] if one["mode"] == "resident"]
    assert [(one["running"], one["queued"]) for one in shown] == [(0, 0), (0, 0)]
    go_on()
    assert told() == "True"
    daemon.stop()
    daemon.start()
    go_on()
    assert told() == "True"
    assert told() == "True 6"
    client.communicate(timeout=60)


@pytest.mark.slow
def test_picture_of_a_control_net_goes_with_its_prompt(hub, make_daemon, tmp_path):
    daemon = serving(hub, make_daemon, controlled.write(tmp_path / "controlled"))
    out, errors = daemon.script(CONTROLLED).communicate(timeout=240)
    assert out.split("\n")[:-1] == ["True 2"] * 3, (out, errors, daemon.tail())
