"""Whole models in one file, through the real daemon and its workers."""

import json
import shutil
from pathlib import Path

import pytest

import zhcache
from harness import extracted, families, ldm
from harness.daemon import source, until
from harness.watchkit import weights

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


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory):
    target = tmp_path_factory.mktemp("sdxl") / "tiny-xl.safetensors"
    return ldm.write(target, ldm.checkpoint(families.folder("sdxl"), ldm.SDXL))


def asked_for(hub):
    """The paths of files that the hub was asked for."""
    return {request.file for request in hub.requests if request.file}


def test_checkpoint_becomes_the_pipeline_it_was_made_of(daemon, sd1, pipeline_dir, hub):
    result = daemon.json("import", str(sd1), "--like", BASE)
    folder = Path(result["path"])
    assert (result["repo"], result["warnings"]) == ("local/A-tiny-model-v1", [])
    for component in ("unet", "vae", "text_encoder"):
        (made,), (original,) = (
            (f / component).glob("*.safetensors") for f in (folder, pipeline_dir)
        )
        assert made.name == original.name
        extracted.assert_same(made, original)
    small = {p for p in files_of(pipeline_dir) if p.endswith((".json", ".txt")) and "/" in p}
    own = {"model_index.json", "zhcache-checkpoint.json"}
    assert {p for p in files_of(folder) if p.endswith((".json", ".txt"))} == small | own
    assert asked_for(hub) == small | {"model_index.json"}
    held = {s["repo"]: s for s in daemon.json("ls")["snapshots"]}
    assert held["local/A-tiny-model-v1"]["complete"]
    assert not held[BASE]["complete"]
    hub.stop()
    blobs = set(daemon.blobs())
    again = daemon.json("import", str(sd1), "--like", BASE)
    assert (again["commit"], again["path"]) == (result["commit"], result["path"])
    elsewhere = daemon.json("import", str(sd1), "--like", BASE, "--repo", "me/mine")
    assert elsewhere["commit"] == result["commit"]
    assert set(daemon.blobs()) == blobs
    assert sd1.exists()


@pytest.mark.slow
def test_checkpoint_in_a_watched_folder_becomes_a_pipeline(
    hub, make_daemon, pipeline_dir, sd1, tmp_path
):
    hub.add("stable-diffusion-v1-5/stable-diffusion-v1-5", files_of(pipeline_dir))
    daemon = make_daemon(source(hub) + '[watch]\nsettle = "1s"\n').start()
    folder = tmp_path / "in"
    folder.mkdir()
    with zhcache.Client(daemon.socket) as client:
        client.watch(folder)
        shutil.copy(sd1, folder)
        (folder / "lora.safetensors").write_bytes(weights())

        def settled():
            (found,) = client.watched()
            states = {model.repo: model for model in found.models}
            return {m.state for m in states.values()} == {"taken", "refused"} and states

        models = until(settled, "the model is taken in", 120)
        assert models["local/A-tiny-model-v1"].state == "taken"
        assert models["local/lora"].state == "refused"
        made = client.path("local/A-tiny-model-v1")
        for component in ("unet", "vae", "text_encoder"):
            (one,), (other,) = ((f / component).glob("*.safetensors") for f in (made, pipeline_dir))
            extracted.assert_same(one, other)


def test_what_cannot_be_taken_in_is_told(daemon, sd1, hub, tmp_path):
    def refused(*arguments):
        done = daemon.cli("import", *arguments, "--json", check=False)
        return done.returncode, json.loads(done.stdout)["error"]

    code, error = refused(str(sd1))
    assert code == 4
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in error["message"]
    assert "--like" in error["hint"]
    pickle = tmp_path / "old.ckpt"
    pickle.write_bytes(b"PK\x03\x04" + bytes(100))
    assert refused(str(pickle)) == (8, unsafe := refused(str(pickle))[1])
    assert "save_file" in unsafe["hint"]
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(sd1.read_bytes()[:-10])
    code, error = refused(str(cut), "--like", BASE)
    assert (code, "it was cut" in error["message"]) == (9, True)
    code, error = refused(str(tmp_path), "--like", BASE)
    assert (code, "--like is for a file" in error["message"]) == (2, True)
    assert daemon.blobs() == {}
    assert daemon.json("ls")["snapshots"] == []


def test_a_model_that_is_here_is_asked_of_nobody(daemon, sdxl, hub, tmp_path):
    daemon.cli("import", str(families.folder("sdxl")), "--repo", "demo/xl")
    hub.stop()
    result = daemon.json("import", str(sdxl), "--like", "demo/xl", "--revision", "v2")
    assert (result["repo"], result["revision"]) == ("local/tiny-xl", "v2")
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        (made,) = (Path(result["path"]) / component).glob("*.safetensors")
        (original,) = (families.folder("sdxl") / component).glob("*.safetensors")
        extracted.assert_same(made, original)


def modules(pipe):
    import torch

    return {n: part for n, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def assert_equal(ours, other, *, but=()):
    """Every parameter of one pipeline is the other's, in fp32."""
    import torch

    assert modules(ours).keys() == modules(other).keys()
    for name in modules(other).keys() - set(but):
        found, wanted = (modules(pipe)[name].float().state_dict() for pipe in (ours, other))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name


@pytest.mark.slow
def test_stock_diffusers_reads_the_same_of_it_as_of_the_file(daemon, sd1, pipeline_dir):
    import numpy as np
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    ours = DiffusionPipeline.from_pretrained(
        daemon.json("import", str(sd1), "--like", BASE)["path"]
    )
    original = DiffusionPipeline.from_pretrained(pipeline_dir)
    stock = StableDiffusionPipeline.from_single_file(
        str(sd1), config=str(pipeline_dir), local_files_only=True
    )
    for other in (original, stock):
        assert_equal(ours, other)
        assert np.array_equal(families.draw(ours), families.draw(other))


@pytest.mark.slow
def test_stock_diffusers_reads_the_same_of_both_text_encoders(daemon, sdxl):
    import numpy as np
    from diffusers import DiffusionPipeline, StableDiffusionXLPipeline

    like = families.folder("sdxl")
    daemon.cli("import", str(like), "--repo", "demo/xl")
    ours = DiffusionPipeline.from_pretrained(
        daemon.json("import", str(sdxl), "--like", "demo/xl")["path"]
    )
    original = DiffusionPipeline.from_pretrained(like)
    assert_equal(ours, original)
    assert np.array_equal(families.draw(ours), families.draw(original))
    stock = StableDiffusionXLPipeline.from_single_file(
        str(sdxl), config=str(like), local_files_only=True
    )
    # It tells them apart by their width, which in this tiny model is one.
    assert_equal(ours, stock, but=["text_encoder_2"])


@pytest.mark.slow
def test_variants_of_it_are_made_as_of_any_snapshot(daemon, sd1, pipeline_dir):
    import torch
    from diffusers import DiffusionPipeline

    result = daemon.json("import", str(sd1), "--like", BASE)
    again = daemon.json("prefetch", result["repo"], "--variant", "fp16")
    assert again["commit"] == result["commit"]
    made = again["variants"]["fp16"]
    assert made["state"] == "made"
    ours = DiffusionPipeline.from_pretrained(made["path"], torch_dtype=torch.float16)
    original = DiffusionPipeline.from_pretrained(pipeline_dir, torch_dtype=torch.float16)
    for name, part in modules(original).items():
        found = modules(ours)[name].state_dict()
        assert all(torch.equal(found[key], value) for key, value in part.state_dict().items())


@pytest.mark.slow
@pytest.mark.own_workers
def test_a_daemon_that_is_killed_meanwhile_leaves_nothing_half_written(daemon, sd1):
    client = daemon.popen("import", str(sd1), "--like", BASE)
    until(lambda: converting(daemon), "a component is being converted")
    daemon.kill()
    client.communicate(timeout=60)
    daemon.start()
    assert daemon.json("verify")["damaged"] == []
    assert "local/A-tiny-model-v1" not in {s["repo"] for s in daemon.json("ls")["snapshots"]}
    assert daemon.json("import", str(sd1), "--like", BASE)["files"] > 0


def converting(daemon):
    jobs = daemon.json("jobs")["jobs"]
    return any(job["note"].startswith("converting") for job in jobs)


def test_one_that_is_dropped_into_a_watched_folder_is_like_the_model_of_its_kind(
    hub, make_daemon, sd1, pipeline_dir, tmp_path
):
    hub.add("stable-diffusion-v1-5/stable-diffusion-v1-5", files_of(pipeline_dir))
    folder = tmp_path / "dropped"
    folder.mkdir()
    watch = f'[watch]\nfolders = ["{folder}"]\nsettle = "100ms"\n'
    daemon = make_daemon(watch + source(hub)).start()
    shutil.copy(sd1, folder / "mine.safetensors")
    held = until(lambda: snapshot(daemon, "local/mine"), "the checkpoint is taken in")
    made = Path(held["path"]) / "unet" / "diffusion_pytorch_model.safetensors"
    extracted.assert_same(made, pipeline_dir / "unet" / made.name)


def snapshot(daemon, repo):
    return next((s for s in daemon.json("ls")["snapshots"] if s["repo"] == repo), None)
