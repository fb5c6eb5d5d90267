"""A user's script gets a pipeline over leased weights that draws what stock diffusers draws."""

import pytest

from harness.daemon import source, until

pytestmark = pytest.mark.journey

COMPARE = """
import diffusers, numpy, sys, torch, zhcache
def draw(pipe):
    seed = torch.Generator("cpu").manual_seed(7)
    return pipe("a red house", num_inference_steps=2, generator=seed, output_type="np").images
pipe = zhcache.load_pipeline("org/pipe", device="cpu")
assert isinstance(pipe, diffusers.StableDiffusionPipeline), type(pipe)
stock = diffusers.DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
assert numpy.array_equal(draw(pipe), draw(stock))
zhcache.release(pipe)
print("equal", flush=True)
sys.stdin.readline()
"""

HOLD = """
import sys, zhcache
with zhcache.load_pipeline("org/pipe", device="cpu") as pipe:
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    return make_daemon(source(hub)).start()


def leases(daemon):
    return [model["leases"] for model in daemon.json("ps")["resident"]]


def lets_go(holder):
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "released\n"


def test_absent_model_is_fetched_equals_stock_and_is_leased_until_pipeline_or_process_ends(
    daemon, hub, pipeline_dir
):
    # In one test: what each script imports takes ten seconds.
    polite = daemon.script(COMPARE + HOLD, str(pipeline_dir))
    assert polite.stdout.readline() == "equal\n", polite.stderr.read()[-3000:]
    assert not daemon.json("ps")["resident"]
    # What is here is loaded without a hub.
    hub.stop()
    polite.stdin.write("\n")
    polite.stdin.flush()
    killed = daemon.script(HOLD)
    for holder in (polite, killed):
        assert holder.stdout.readline() == "held\n", holder.stderr.read()
    assert leases(daemon) == [2]
    # The leases outlive the daemon: that their connections end with it says nothing to the next.
    daemon.kill()
    daemon.start()
    assert leases(daemon) == [2]
    killed.kill()
    killed.communicate()
    until(lambda: leases(daemon) == [1], "the killed one's lease ends")
    daemon.json("rm", "org/pipe", code=75)
    lets_go(polite)
    assert leases(daemon) == []
    daemon.json("rm", "org/pipe")
    polite.communicate("\n", timeout=30)


@pytest.mark.slow
def test_lease_is_released_although_the_daemon_was_stopped_and_started(daemon):
    daemon.json("prefetch", "org/pipe")
    holder = daemon.script(HOLD)
    assert holder.stdout.readline() == "held\n"
    daemon.stop()
    daemon.start()
    assert leases(daemon) == [1]
    lets_go(holder)
    assert leases(daemon) == []
    holder.communicate("\n", timeout=30)
