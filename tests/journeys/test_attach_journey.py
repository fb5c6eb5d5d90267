"""Real clients get weights from a real daemon's memory, filled by a real worker."""

import pytest

from harness.daemon import source

pytestmark = pytest.mark.journey

CONFIG = '[residency]\nhost = "arenas"\n'

COMPARE = """
import diffusers, numpy, sys, torch, zhcache
from pathlib import Path
def draw(pipe):
    seed = torch.Generator("cpu").manual_seed(7)
    return pipe("a red house", num_inference_steps=2, generator=seed, output_type="np").images
pipe = zhcache.load_pipeline("org/pipe", device="cpu", safety_checker=None)
assert Path("/proc/self/maps").read_text().count("memfd:zhcache-arena") == 3
stock = diffusers.DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
assert numpy.array_equal(draw(pipe), draw(stock))
print("equal", flush=True)
sys.stdin.readline()
assert numpy.array_equal(draw(pipe), draw(stock))
zhcache.release(pipe)
print("equal still", flush=True)
"""


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    return make_daemon(source(hub) + CONFIG).start()


def test_clients_share_filled_memory_and_outlive_the_daemon(daemon, pipeline_dir):
    first, second = (daemon.script(COMPARE, str(pipeline_dir)) for _ in range(2))
    for client in (first, second):
        said = client.stdout.readline()
        assert said == "equal\n", client.stderr.read()[-3000:] + daemon.tail()
    daemon.kill()
    for client in (first, second):
        out, errors = client.communicate("\n", timeout=120)
        assert out == "equal still\n", errors[-3000:]
