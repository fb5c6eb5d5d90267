"""Weights that a hub has only as pickle: refused, or on request converted by the real workers."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from harness.daemon import source, until

pytestmark = pytest.mark.journey

REPO = "demo/tiny"
UNET_BIN = "unet/diffusion_pytorch_model.bin"
CLIP_BIN = "text_encoder/pytorch_model.bin"
CONVERTED = "converted to safetensors"


def files_of(folder):
    return {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def pickled_dir(pipeline_dir, tmp_path_factory):
    """The pipeline as one of 2022 lies on a hub: all weights are pickles, those of the unet two."""
    import torch
    from diffusers import DiffusionPipeline
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("pickled") / "pipe"
    pipe = DiffusionPipeline.from_pretrained(pipeline_dir)
    pipe.save_pretrained(folder, safe_serialization=False)
    # Transformers writes no pickles any more.
    safe = folder / "text_encoder" / "model.safetensors"
    if safe.exists():
        torch.save(load_file(safe), folder / CLIP_BIN)
        safe.unlink()
    shutil.rmtree(folder / "unet")
    pipe.unet.save_pretrained(folder / "unet", safe_serialization=False, max_shard_size="1MB")
    assert not list(folder.rglob("*.safetensors"))
    return folder


@pytest.fixture
def daemon(hub, make_daemon, pickled_dir):
    hub.add(REPO, files_of(pickled_dir))
    return make_daemon(source(hub)).start()


def pickles(daemon):
    """The blobs that torch.save wrote."""
    return [p for p in daemon.blobs().values() if p.read_bytes()[:4] == b"PK\x03\x04"]


def test_they_are_refused_and_the_hint_says_how_they_are_had(daemon):
    done = daemon.cli("prefetch", REPO, "--json", check=False)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (8, "unsafe_weights")
    assert "--allow-pickle" in error["hint"]
    assert daemon.blobs() == {}


def test_they_are_converted_and_nothing_but_safetensors_is_kept(daemon, pickled_dir, pipeline_dir):
    import torch
    from diffusers import DiffusionPipeline

    result = daemon.json("prefetch", REPO, "--allow-pickle")
    folder = Path(result["path"])
    here = set(files_of(folder))
    assert {p for p in here if "model" in Path(p).name and p != "model_index.json"} == {
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        *(f"unet/{p.stem}.safetensors" for p in (pickled_dir / "unet").glob("*.bin")),
    }
    assert len(list((pickled_dir / "unet").glob("*.bin"))) > 1
    assert result["left_out"][CLIP_BIN] == CONVERTED
    assert not any(p.endswith((".bin", ".bin.index.json")) for p in here)
    ours = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    stock = DiffusionPipeline.from_pretrained(pipeline_dir)
    for part in ("unet", "vae", "text_encoder"):
        made = getattr(ours, part).state_dict()
        published = getattr(stock, part).state_dict()
        assert made.keys() == published.keys()
        assert all(torch.equal(made[name], tensor) for name, tensor in published.items())
    assert len(pickles(daemon)) == 1 + 1 + len(list((pickled_dir / "unet").glob("*.bin")))
    daemon.cli("gc")
    assert pickles(daemon) == []
    assert daemon.json("verify")["damaged"] == []
    (held,) = daemon.json("ls")["snapshots"]
    assert held["complete"]


def test_who_does_not_allow_them_finds_what_was_converted(daemon, hub):
    made = daemon.json("prefetch", REPO, "--allow-pickle")
    daemon.cli("gc")
    # A branch is asked for at the hub, which lists pickles still.
    again = daemon.json("prefetch", REPO)
    assert (again["commit"], again["bytes_fetched"]) == (made["commit"], 0)
    assert (again["files"], again["bytes"]) == (made["files"], made["bytes"])
    assert again["left_out"] == made["left_out"]
    assert daemon.json("prefetch", REPO, "--allow-pickle")["bytes_fetched"] == 0
    assert pickles(daemon) == []
    hub.stop()
    daemon.json("prefetch", REPO, "--revision", made["commit"])
    variant = daemon.json("prefetch", REPO, "--revision", made["commit"], "--variant", "fp16")
    assert variant["variants"]["fp16"]["state"] == "made"


def test_they_are_converted_part_by_part_until_the_snapshot_is_whole(daemon):
    part = daemon.json("prefetch", REPO, "--allow-pickle", "--include", "vae/*")
    assert not daemon.json("ls")["snapshots"][0]["complete"]
    assert daemon.json("prefetch", REPO, code=8)["error"]["code"] == "unsafe_weights"
    whole = daemon.json("prefetch", REPO, "--allow-pickle")
    assert whole["files"] > part["files"]
    assert daemon.json("ls")["snapshots"][0]["complete"]


def test_dry_run_tells_what_is_fetched_to_be_converted(daemon):
    plan = daemon.json("prefetch", REPO, "--allow-pickle", "--variant", "fp16", "--dry-run")
    assert CLIP_BIN in {file["path"] for file in plan["files"]}
    assert plan["left_out"][CLIP_BIN] == CONVERTED
    assert "text_encoder/model.safetensors" in plan["variants"]["fp16"]["sources"]
    assert daemon.blobs() == {}


def test_damaged_conversion_is_repaired_from_the_pickle(daemon):
    folder = Path(daemon.json("prefetch", REPO, "--allow-pickle")["path"])
    daemon.cli("gc")
    whole = {path: p.read_bytes() for path, p in files_of(folder).items()}
    for path in ("text_encoder/model.safetensors", "model_index.json"):
        blob = (folder / path).resolve()
        blob.unlink()
    for index in folder.glob("unet/*.index.json"):
        index.resolve().unlink()
    assert daemon.cli("verify", check=False).returncode == 9
    daemon.json("repair")
    assert {path: p.read_bytes() for path, p in files_of(folder).items()} == whole
    daemon.cli("gc")
    assert pickles(daemon) == []


def test_lock_file_names_what_the_hub_has(daemon, make_daemon, hub, tmp_path):
    daemon.json("prefetch", REPO, "--allow-pickle")
    lock = tmp_path / "lock.json"
    lock.write_text(daemon.cli("lock", REPO).stdout)
    other = make_daemon(source(hub), name="other").start()
    refused = other.json("prefetch", REPO, "--lock", str(lock), code=8)
    assert refused["error"]["code"] == "unsafe_weights"
    made = other.json("prefetch", REPO, "--lock", str(lock), "--allow-pickle")
    assert made["trust"] == "pinned"
    assert (Path(made["path"]) / "text_encoder/model.safetensors").exists()
    assert daemon.json("prefetch", REPO, "--lock", str(lock))["bytes_fetched"] == 0


class Writes:
    """Unpickled by pickle itself, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_hostile_pickle_runs_nothing_and_nothing_of_it_is_kept(
    hub, make_daemon, pickled_dir, tmp_path
):
    import torch

    trap, hostile = tmp_path / "trap", tmp_path / "hostile.bin"
    torch.save({"weight": torch.ones(4), "more": Writes(trap)}, hostile)
    with zipfile.ZipFile(hostile) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith("data.pkl")]
        assert b"system" in archive.read(name)
    hub.add(REPO, {**files_of(pickled_dir), CLIP_BIN: hostile})
    daemon = make_daemon(source(hub)).start()
    error = daemon.json("prefetch", REPO, "--allow-pickle", code=8)["error"]
    assert error["code"] == "unsafe_weights"
    assert CLIP_BIN in error["message"]
    assert "posix.system" in error["message"]
    assert not trap.exists()
    assert daemon.json("ls")["snapshots"] == []
    daemon.cli("gc")
    assert pickles(daemon) == []
    # The test's own check: the file does what it says where somebody reads it as any pickle.
    torch.load(hostile, weights_only=False)
    assert trap.exists()


@pytest.mark.parametrize("name", ["draft.write", "commit.after_digest", "publish.before_manifest"])
def test_killed_on_the_way_it_goes_on_and_fetches_nothing_twice(daemon, hub, pickled_dir, name):
    daemon.stop()
    daemon.start(ZHCACHE_FAILPOINTS=f"{name}=kill")
    daemon.cli("prefetch", REPO, "--allow-pickle", "--detach", check=False)
    until(lambda: daemon.process.poll() is not None, f"the daemon dies at {name}")
    daemon.start()
    made = daemon.json("prefetch", REPO, "--allow-pickle")
    folder = Path(made["path"])
    assert (folder / "text_encoder/model.safetensors").exists()
    assert daemon.json("verify")["damaged"] == []
    daemon.cli("gc")
    assert pickles(daemon) == []
    assert not list((daemon.home / "ingest").iterdir())
