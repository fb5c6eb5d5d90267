"""Variants through the real daemon and its workers: made, taken over, found again, made anew."""

import json
import shutil
from pathlib import Path

import pytest

from harness.daemon import source

pytestmark = pytest.mark.journey

REPO = "demo/tiny"
UNET = "unet/diffusion_pytorch_model.safetensors"


def files_of(folder):
    return {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def published_dir(pipeline_dir, tmp_path_factory):
    """The pipeline as a hub has it that publishes fp16 beside it."""
    import torch
    from diffusers import DiffusionPipeline

    folder = tmp_path_factory.mktemp("published") / "pipe"
    pipe = DiffusionPipeline.from_pretrained(pipeline_dir, torch_dtype=torch.float16)
    pipe.save_pretrained(folder, variant="fp16")
    shutil.copytree(pipeline_dir, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir):
    hub.add(REPO, files_of(pipeline_dir))
    return make_daemon(source(hub)).start()


def load(folder, **options):
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder, **options)


def modules(pipe):
    import torch

    return {n: part for n, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def assert_equal(ours, theirs):
    """Every parameter and buffer of one pipeline is the other's, dtype and all."""
    import torch

    assert modules(ours).keys() == modules(theirs).keys()
    for name, part in modules(theirs).items():
        made = modules(ours)[name].state_dict()
        for key, tensor in part.state_dict().items():
            assert made[key].dtype == tensor.dtype, f"{name}.{key}"
            assert torch.equal(made[key], tensor), f"{name}.{key}"


def dtypes(folder):
    """Of the floating point tensors in a component's files."""
    (path,) = folder.glob("*.safetensors")
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    kinds = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    return kinds & {"F32", "F16", "BF16"}


def test_variant_is_made_and_stock_diffusers_loads_it(daemon, pipeline_dir):
    import torch

    result = daemon.json("prefetch", REPO, "--variant", "fp16")
    made = result["variants"]["fp16"]
    assert made["state"] == "made"
    assert daemon.cli("path", REPO, "--variant", "fp16").stdout.strip() == made["path"]
    assert made["bytes"] < 0.6 * result["bytes"]
    assert_equal(
        load(made["path"], torch_dtype=torch.float16),
        load(pipeline_dir, torch_dtype=torch.float16),
    )
    report = json.loads((Path(made["path"]) / "zhcache-variant.json").read_bytes())
    assert set(report["components"]) == {"unet", "vae", "text_encoder"}
    again = daemon.json("prefetch", REPO, "--variant", "fp16")["variants"]["fp16"]
    assert (again["state"], again["path"]) == ("present", made["path"])


def test_published_weights_are_used_and_the_plain_ones_not_fetched(hub, make_daemon, published_dir):
    import torch

    hub.add(REPO, files_of(published_dir))
    daemon = make_daemon(source(hub)).start()
    result = daemon.json("prefetch", REPO, "--variant", "fp16", "--only-pipeline")
    made = result["variants"]["fp16"]
    assert made["state"] == "published"
    assert UNET in result["left_out"]
    assert not (Path(result["path"]) / UNET).exists()
    assert_equal(
        load(made["path"], torch_dtype=torch.float16),
        load(published_dir, variant="fp16", torch_dtype=torch.float16),
    )
    (held,) = daemon.json("ls")["snapshots"]
    assert not held["complete"]
    assert daemon.json("prefetch", REPO)["bytes_fetched"] > 0
    assert (Path(result["path"]) / UNET).exists()


def test_variant_of_what_is_here_needs_no_hub(daemon, hub):
    commit = daemon.json("prefetch", REPO, "--only-pipeline")["commit"]
    hub.stop()
    made = daemon.json(
        "prefetch", REPO, "--revision", commit, "--only-pipeline", "--variant", "bf16"
    )
    assert made["variants"]["bf16"]["state"] == "made"


def test_dry_run_tells_what_would_be_made_and_fetches_nothing(daemon):
    plan = daemon.json("prefetch", REPO, "--variant", "int8", "--dry-run")["variants"]
    assert plan["int8"]["state"] == "made"
    assert UNET in plan["int8"]["sources"]
    assert plan["int8"]["bytes"] > 0
    assert daemon.blobs() == {}
    told = daemon.cli("prefetch", REPO, "--variant", "int8", "--dry-run").stdout
    assert "variant int8, to be made" in told


def test_unknown_variant_is_refused_before_anything_is_fetched(daemon, hub):
    sent = hub.sent("*")
    done = daemon.cli("prefetch", REPO, "--variant", "int3", check=False)
    assert done.returncode == 2
    assert "int3" in done.stderr
    assert "fp16, bf16, fp8, int8, int4" in done.stderr
    assert hub.sent("*") == sent


def test_own_recipe_is_made_at_every_prefetch_that_the_policy_names(hub, make_daemon, pipeline_dir):
    hub.add(REPO, files_of(pipeline_dir))
    recipe = '[recipe.mine]\ndefault = "fp16"\n[recipe.mine.components]\nvae = "fp32"\n'
    policy = f'[convert.auto]\n"{REPO}" = ["mine"]\n'
    daemon = make_daemon(source(hub) + recipe + policy).start()
    made = daemon.json("prefetch", REPO)["variants"]["mine"]
    kinds = {name: dtypes(Path(made["path"]) / name) for name in ("unet", "text_encoder", "vae")}
    assert kinds == {"unet": {"F16"}, "text_encoder": {"F16"}, "vae": {"F32"}}


def test_damaged_variant_is_made_anew_by_repair(daemon):
    made = daemon.json("prefetch", REPO, "--variant", "fp16")["variants"]["fp16"]
    path = (Path(made["path"]) / UNET).resolve()
    content = path.read_bytes()
    path.unlink()
    daemon.json("verify", code=9)
    daemon.json("repair")
    assert path.read_bytes() == content
    assert daemon.json("verify")["missing"] == []


def test_conversion_that_was_killed_goes_on_with_what_is_missing(daemon):

    from harness.daemon import until

    job = daemon.popen("prefetch", REPO, "--variant", "fp16", "--json")
    records = daemon.home / "convert"
    until(lambda: any(records.glob("*.json")) or job.poll() is not None, "a component is done")
    daemon.kill()
    # It would wait for the daemon a good while.
    job.kill()
    job.communicate()
    done = {p.name for p in daemon.blobs().values()}
    daemon.start()
    made = daemon.json("prefetch", REPO, "--variant", "fp16")["variants"]["fp16"]
    assert set(daemon.blobs()) >= done
    assert list(records.iterdir()) == []
    assert daemon.json("verify")["damaged"] == []
    assert (Path(made["path"]) / UNET).exists()
