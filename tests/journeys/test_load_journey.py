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
print("equal")
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


def test_load_pipeline_fetches_what_is_absent_and_equals_stock(daemon, pipeline_dir):
    done = daemon.script(COMPARE, str(pipeline_dir))
    out, errors = done.communicate(timeout=150)
    assert out.split() == ["equal"], errors[-3000:]
    assert not daemon.json("ps")["resident"]


def test_load_pipeline_works_when_the_hub_is_gone(daemon, hub, pipeline_dir):
    daemon.json("prefetch", "org/pipe")
    hub.stop()
    out, errors = daemon.script(COMPARE, str(pipeline_dir)).communicate(timeout=150)
    assert out.split() == ["equal"], errors[-3000:]


def test_lease_lasts_as_long_as_the_pipeline_or_its_process(daemon):
    daemon.json("prefetch", "org/pipe")
    polite, killed = daemon.script(HOLD), daemon.script(HOLD)
    assert polite.stdout.readline() == "held\n"
    assert killed.stdout.readline() == "held\n"
    assert daemon.json("ps")["resident"][0]["leases"] == 2
    killed.kill()
    killed.communicate()
    until(lambda: daemon.json("ps")["resident"][0]["leases"] == 1, "the killed one's lease ends")
    daemon.json("rm", "org/pipe", code=75)
    polite.stdin.write("\n")
    polite.stdin.flush()
    assert polite.stdout.readline() == "released\n"
    until(lambda: not daemon.json("ps")["resident"], "the released lease ends")
    daemon.json("rm", "org/pipe")
    polite.communicate("\n", timeout=30)


def test_lease_outlives_a_restart_of_the_daemon(daemon):
    daemon.json("prefetch", "org/pipe")
    holder = daemon.script(HOLD)
    assert holder.stdout.readline() == "held\n"
    daemon.kill()
    daemon.start()
    daemon.json("rm", "org/pipe", code=75)
    holder.kill()
    holder.communicate()
    daemon.json("rm", "org/pipe")


@pytest.mark.parametrize("ended", [pytest.param("stop", marks=pytest.mark.slow), "kill"])
def test_lease_is_released_although_the_daemon_was_restarted(daemon, ended):
    # The connection that was the lease is gone, so its end says nothing to the next daemon.
    daemon.json("prefetch", "org/pipe")
    holder = daemon.script(HOLD)
    assert holder.stdout.readline() == "held\n"
    getattr(daemon, ended)()
    daemon.start()
    assert daemon.json("ps")["resident"][0]["leases"] == 1
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "released\n"
    assert not daemon.json("ps")["resident"]
    daemon.json("rm", "org/pipe")
    holder.communicate("\n", timeout=30)
