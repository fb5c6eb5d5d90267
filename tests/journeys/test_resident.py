"""A script without torch draws through a worker of the real daemon what stock diffusers draws."""

import hashlib
import json
import signal

import pytest

from harness import families
from harness.daemon import source, until

pytestmark = pytest.mark.journey

BARE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "diffusers", "transformers", "numpy", "httpx"}:
            raise ImportError(f"{name} must not be imported here", name=name)

sys.meta_path.insert(0, Refuse())
"""

OPEN = """
import zhcache
pipe = zhcache.load_pipeline("org/pipe", mode="resident", device="cpu")
"""

DRAW = (
    BARE
    + OPEN
    + """
import hashlib
from zhcache import UsageError
result = pipe("a red house", seed=7, num_inference_steps=2)
print(hashlib.sha256(result.images[0].tobytes()).hexdigest())
try:
    pipe("x", num_inference_steps=2, output_type="np")
except UsageError as error:
    assert "numpy" in str(error), error
else:
    raise AssertionError("an array without numpy")
zhcache.release(pipe)
"""
)

LONG = """
import sys
def begun(pipe, step, timestep, tensors):
    print("step", flush=True)
try:
    pipe("x", num_inference_steps=900, num_images_per_prompt=4, callback_on_step_end=begun)
except KeyboardInterrupt:
    print("interrupted", flush=True)
images = pipe("x", num_inference_steps=2).images
print("drew", len(images), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    return make_daemon(source(hub)).start()


def test_client_without_torch_draws_what_stock_draws(daemon, pipeline_dir):
    daemon.json("prefetch", "org/pipe")
    out, errors = daemon.script(DRAW).communicate(timeout=120)
    expected = families.image_of_stock(pipeline_dir, "a red house").tobytes()
    assert out.split() == [hashlib.sha256(expected).hexdigest()], (errors, daemon.tail())


def test_snapshot_that_is_absent_is_fetched_first(daemon):
    out, errors = daemon.script(OPEN + "print(pipe.repo)").communicate(timeout=120)
    assert out.split() == ["org/pipe"], (errors, daemon.tail())


def test_repository_that_nobody_has_is_not_found(daemon):
    text = OPEN.replace("org/pipe", "org/none")
    _, errors = daemon.script(text).communicate(timeout=120)
    assert "NotFound" in errors.strip().splitlines()[-1]


def test_interrupted_call_frees_the_worker_at_once(daemon):
    daemon.json("prefetch", "org/pipe")
    client = daemon.script(OPEN + LONG)
    assert client.stdout.readline() == "step\n", (client.stderr.read(), daemon.tail())
    client.send_signal(signal.SIGINT)
    told = []
    while not told or not told[-1].startswith("drew"):
        told.append(client.stdout.readline())
        assert told[-1], (client.stderr.read(), daemon.tail())
    assert told[-2:] == ["interrupted\n", "drew 1\n"]
    shown = json.loads(daemon.cli("ps", "--json").stdout)["resident"]
    assert [(one["mode"], one["leases"]) for one in shown if one["mode"] == "resident"] == [
        ("resident", 1)
    ]
    client.communicate("\n", timeout=30)


def test_lease_ends_with_the_client_however_it_ends(daemon):
    def leases():
        shown = json.loads(daemon.cli("ps", "--json").stdout)["resident"]
        return sum(one["leases"] for one in shown if one["mode"] == "resident")

    daemon.json("prefetch", "org/pipe")
    client = daemon.script(OPEN + "print(1, flush=True)\nimport time\ntime.sleep(100)")
    assert client.stdout.readline() == "1\n", (client.stderr.read(), daemon.tail())
    assert leases() == 1
    client.kill()
    client.communicate()
    until(lambda: leases() == 0, "the killed client's lease ends")
