"""Whole models in one file, through the real daemon and its workers."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from harness import families, ldm
from harness.daemon import source

pytestmark = pytest.mark.journey

BASE = "demo/base"


def files_of(folder):
    return {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir):
    hub.add(BASE, files_of(pipeline_dir))
    return make_daemon(source(hub)).start()


@pytest.fixture(scope="session")
def sd1(pipeline_dir, tmp_path_factory):
    target = tmp_path_factory.mktemp("sd1") / "A tiny model (v1).safetensors"
    return ldm.write(target, ldm.checkpoint(pipeline_dir, ldm.SD1))


def assert_same_weights(made, original):
    """Every tensor of every component is the other's, name, dtype and bytes."""
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if not (original / component).exists():
            continue
        (ours,), (theirs,) = ((f / component).glob("*.safetensors") for f in (made, original))
        found, wanted = load_file(ours), load_file(theirs)
        if component.startswith("text_encoder"):
            wanted = ldm.published(wanted)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype, name
            assert found[name].tobytes() == tensor.tobytes(), name


def test_checkpoint_becomes_the_pipeline_it_was_made_of(daemon, sd1, pipeline_dir, hub):
    result = daemon.json("import", str(sd1), "--like", BASE)
    folder = Path(result["path"])
    assert result["repo"] == "local/A-tiny-model-v1"
    assert result["warnings"] == []
    assert_same_weights(folder, pipeline_dir)
    small = {p for p in files_of(pipeline_dir) if p.endswith((".json", ".txt")) and "/" in p}
    assert {p for p in files_of(folder) if p.endswith((".json", ".txt"))} == small | {
        "model_index.json",
        "zhcache-checkpoint.json",
    }
    assert not any(".safetensors" in request.path for request in hub.requests if hub.requests)
    told = json.loads((folder / "zhcache-checkpoint.json").read_bytes())
    assert (told["kind"], told["like"]) == ("Stable Diffusion 1", BASE)
