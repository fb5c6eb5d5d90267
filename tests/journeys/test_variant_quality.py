"""Variants measured, and chosen from to fit into memory, with the real daemon and workers."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from harness.daemon import source

pytestmark = pytest.mark.journey
REPO = "demo/tiny"


@pytest.fixture(scope="module")
def daemon(pipeline_dir, tmp_path_factory, shared_workers):
    """Has the tiny pipeline and two variants of it."""
    from demohub import Hub
    from harness.daemon import Daemon

    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    with Hub() as hub:
        hub.add(REPO, files)
        shared = {"ZHCACHE_WORKERS": str(shared_workers.path)}
        daemon = Daemon(tmp_path_factory.mktemp("quality"), source(hub), shared).start()
        daemon.cli("prefetch", REPO, "--variant", "fp16", "--variant", "bf16")
        yield daemon
    daemon.stop()


@pytest.mark.slow
def test_each_variant_is_drawn_with_and_what_was_found_is_kept(daemon, tmp_path):
    sheet = tmp_path / "sheet.png"
    bench = ("bench", "variants", REPO, "--prompt", "a house", "--seeds", "2", "--steps", "2")
    found = daemon.json(*bench, "--size", "64x64", "--device", "cpu", "--picture", str(sheet))
    assert found["variants"].keys() == {"fp16", "bf16"}
    for made in found["variants"].values():
        quality = made["quality"]
        assert quality["pairs"] == 2
        assert 0.5 < quality["ssim_least"] <= quality["ssim"] <= 1
        assert quality["uid"] == os.getuid()
        assert quality["measured"] > 1.7e9
    with Image.open(sheet) as drawn:
        assert drawn.size == (3 * 256, 16 + 2 * 256)
    shown = daemon.json("show", REPO)["variants"]
    assert {name: made["quality"] for name, made in shown.items()} == {
        name: made["quality"] for name, made in found["variants"].items()
    }
    assert "PSNR" in daemon.cli("show", REPO).stdout
    again = daemon.cli(*bench, "--variant", "fp16", "--size", "64x64", "--device", "cpu")
    assert again.stdout.splitlines()[1].startswith("fp16")


def test_a_variant_that_is_not_here_is_not_measured(daemon):
    failed = daemon.json("bench", "variants", REPO, "--variant", "int4", code=4)
    assert "zhcache prefetch demo/tiny --variant int4" in failed["error"]["hint"]


_SCRIPT = """
import json, sys, zhcache
for options in map(json.loads, sys.argv[1:]):
    try:
        pipe = zhcache.load_pipeline("demo/tiny", device="cpu", **options)
    except zhcache.errors.NoSpace as error:
        print(json.dumps({"failed": str(error)}))
        continue
    print(json.dumps({"report": pipe.memory_report, "dtype": str(getattr(pipe, "dtype", "")),
                      "variant": getattr(pipe, "variant", None)}))
    del pipe
"""


def loaded(daemon, *several):
    """What a script is told that loads the pipeline in several ways, one after another."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *map(json.dumps, several)],
        capture_output=True,
        text=True,
        env=daemon.environ,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout.splitlines()


def test_published_weights_where_there_is_room_and_the_least_where_that_is_asked(daemon):
    auto, low, little = loaded(daemon, {"memory": "auto"}, {"memory": "low"}, {"memory": "64KiB"})
    assert "as published" in auto
    assert "torch.float32" in auto
    assert "variant" in json.loads(low)["report"]
    assert "torch.float32" not in low
    assert "the pipeline needs" in json.loads(little)["failed"]


@pytest.mark.slow
def test_variant_that_is_named_is_the_one(daemon):
    (said,) = loaded(daemon, {"memory": "auto", "variant": "bf16"})
    assert "variant bf16" in said
    assert "torch.bfloat16" in said


def test_resident_worker_tells_its_choice(daemon):
    (said,) = loaded(daemon, {"memory": "low", "variant": "fp16", "mode": "resident"})
    assert "variant fp16" in said
    assert '"variant": "fp16"' in said


def test_what_became_of_each_component_is_shown(daemon):
    parts = daemon.json("show", REPO, "--variant", "fp16")["parts"]
    assert parts.keys() == {"unet", "vae", "text_encoder"}
    for part in parts.values():
        assert part["scheme"] == "fp16"
        assert 0.4 < part["bytes_out"] / part["bytes_in"] < 0.6
        assert 0 < part["relative"] < 1e-3
        assert (part["overflow"], part["nonfinite_in"]) == (0, 0)
    assert "RELATIVE ERROR" in daemon.cli("show", REPO, "--variant", "fp16").stdout
    assert daemon.json("show", REPO)["parts"] == {}
