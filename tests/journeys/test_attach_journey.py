"""Real clients get weights from a real daemon's memory, filled by a real worker."""

import pytest

from harness.daemon import source

pytestmark = pytest.mark.journey

CONFIG = '[residency]\nhost = "arenas"\n'

# Two clients that share what they import, which takes ten seconds, and nothing else. A line of each
# is one write: print makes two of one where output is unbuffered, and lines of both mix.
COMPARE = """
import diffusers, numpy, os, sys, torch, zhcache
from pathlib import Path
from diffusers import StableDiffusionPipeline
def draw(pipe):
    seed = torch.Generator("cpu").manual_seed(7)
    return pipe("a red house", num_inference_steps=2, generator=seed, output_type="np").images
def client():
    pipe = zhcache.load_pipeline("org/pipe", device="cpu", safety_checker=None)
    assert Path("/proc/self/maps").read_text().count("memfd:zhcache-arena") == 3
    stock = diffusers.DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
    assert numpy.array_equal(draw(pipe), draw(stock))
    os.write(1, b"equal\\n")
    os.read(0, 1)
    assert numpy.array_equal(draw(pipe), draw(stock))
    zhcache.release(pipe)
    os.write(1, b"equal still\\n")
second = os.fork()
try:
    client()
except BaseException:
    os.write(1, b"failed\\n")
    raise
if second:
    assert os.waitpid(second, 0)[1] == 0
"""


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    return make_daemon(source(hub) + CONFIG).start()


def test_clients_share_filled_memory_and_outlive_the_daemon(daemon, pipeline_dir):
    clients = daemon.script(COMPARE, str(pipeline_dir))
    for _ in range(2):
        said = clients.stdout.readline()
        assert said == "equal\n", said + daemon.tail()
    daemon.kill()
    out, errors = clients.communicate("12", timeout=120)
    assert out == "equal still\n" * 2, errors[-3000:]
    assert clients.returncode == 0, errors[-3000:]
