"""Placements of one process, planned: a real daemon says what is there, the client does it."""

import pytest

import zhcache
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
for mode in ("attach", "resident"):
    for placement in ("split", "offload"):
        try:
            zhcache.load_pipeline("org/pipe", mode=mode, placement=placement)
        except zhcache.UsageError as refused:
            print(refused)
with zhcache.load_pipeline("org/pipe", mode="resident", device=["cpu", "cpu"]) as pipe:
    print(pipe.placement_report, *pipe.devices)
"""


def test_devices_that_are_named_are_planned_and_a_split_needs_a_gpu(
    hub, make_daemon, pipeline_dir, monkeypatch
):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    daemon = make_daemon(source(hub)).start()
    out, errors = daemon.script(SCRIPT, str(pipeline_dir)).communicate(timeout=150)
    *refused, told = out.splitlines() or [errors[-3000:]]
    assert [("GPU to split it with" in one, "GPU that it could" in one) for one in refused] == [
        (True, False), (False, True),
    ] * 2  # fmt: skip
    assert told == "None cpu cpu"
    assert {row["device"] for row in daemon.json("ps")["resident"]} <= {"cpu"}
    ran = daemon.cli("run", "org/pipe", "x", "--placement", "split", check=False)
    assert ran.returncode == zhcache.UsageError.exit_code
    assert "no GPU to split it with" in ran.stderr
