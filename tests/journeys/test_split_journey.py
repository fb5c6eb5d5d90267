"""Placements of one process, planned: a real daemon says what is there, the client does it."""

import pytest

from harness.daemon import source

pytestmark = [pytest.mark.journey, pytest.mark.slow]

SCRIPT = """
import diffusers, numpy, sys, torch, zhcache
def draw(pipe):
    seed = torch.Generator("cpu").manual_seed(7)
    return pipe("a red house", num_inference_steps=2, generator=seed, output_type="np").images
with zhcache.load_pipeline("org/pipe", device=["cpu", "cpu"]) as pipe:
    assert pipe.placement_report.placement == "single", pipe.placement_report
    stock = diffusers.DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float32)
    assert numpy.array_equal(draw(pipe), draw(stock))
for placement in ("split", "offload"):
    try:
        zhcache.load_pipeline("org/pipe", placement=placement)
    except zhcache.UsageError as refused:
        print(refused)
"""


def test_devices_that_are_named_are_planned_and_a_split_needs_a_gpu(
    hub, make_daemon, pipeline_dir, monkeypatch
):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    daemon = make_daemon(source(hub)).start()
    out, errors = daemon.script(SCRIPT, str(pipeline_dir)).communicate(timeout=150)
    split, offload = out.splitlines() or (errors[-3000:], "")
    assert "no GPU to split it with" in split
    assert "no GPU that it could come to" in offload
    assert not daemon.json("ps")["resident"]
