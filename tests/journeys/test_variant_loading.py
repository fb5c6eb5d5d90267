"""Variants as users load them: made where they lack, the same image in every way of loading."""

import subprocess
import sys
from pathlib import Path

import numpy
import pytest

import zhcache
from harness import families
from harness.daemon import source
from zhcache.errors import Busy, NotFound, UsageError

pytestmark = pytest.mark.journey

FAMILIES = {"lab/sd15": "sd15", "lab/flux": "flux"}
VARIANTS = {"fp16": "float16", "int8": "bfloat16"}


@pytest.fixture
def host() -> str:
    """How weights reach the CPU."""
    return "files"


@pytest.fixture
def daemon(host, hub, make_daemon, monkeypatch):
    for repo, family in FAMILIES.items():
        folder = families.folder(family)
        hub.add(repo, {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()})
    config = f'{source(hub)}[residency]\nhost = "{host}"\n'
    made = make_daemon(config).start(SDNQ_USE_TORCH_COMPILE="0")
    for name, value in made.environ.items():
        if name.startswith("ZHCACHE"):
            monkeypatch.setenv(name, value)
    return made


def of_stock(folder, dtype):
    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, dtype))
    return families.draw(pipe)


def shown(daemon):
    return {(row["repo"], row["commit"], row["variant"]) for row in daemon.json("ps")["resident"]}


@pytest.mark.parametrize("host", ["files", pytest.param("arenas", marks=pytest.mark.slow)])
def test_each_way_of_loading_draws_what_stock_draws_from_the_path(daemon, hub):
    for repo in FAMILIES:
        commit = daemon.json("prefetch", repo, "--only-pipeline")["commit"]
        hub.stop() if repo == "lab/flux" else None
        for variant, dtype in VARIANTS.items():
            # Made here: what it is made of is in the store, so no hub is asked.
            with zhcache.load_pipeline(repo, variant, device="cpu") as pipe:
                folder = daemon.cli("path", repo, "--variant", variant).stdout.strip()
                drawn = of_stock(folder, dtype)
                assert numpy.array_equal(families.draw(pipe), drawn), (repo, variant)
                assert (repo, commit, variant) in shown(daemon)
                refused = daemon.cli("rm", repo, "--variant", variant, check=False)
                assert refused.returncode == Busy.exit_code, refused.stderr
            with zhcache.load_pipeline(repo, variant, mode="resident", device="cpu") as pipe:
                assert (pipe.commit, pipe.variant) == (commit, variant)
                assert numpy.array_equal(families.draw(pipe), drawn), (repo, variant)
        kept = shown(daemon)
        assert {(repo, commit, variant) for variant in VARIANTS} <= kept
        daemon.json("stop", repo, "--variant", "int8")
        assert kept - shown(daemon) == {(repo, commit, "int8")}


def test_variant_that_is_not_there_is_told_with_how_to_make_it(daemon):
    daemon.json("prefetch", "lab/sd15", "--only-pipeline")
    client = zhcache.Client()
    with client, pytest.raises(NotFound, match="no variant bf16 here") as caught:
        client.lease("lab/sd15", variant="bf16")
    assert "zhcache prefetch lab/sd15 --variant bf16" in caught.value.hint
    with pytest.raises(UsageError, match="no recipe for a variant fp17"):
        zhcache.load_pipeline("lab/sd15", "fp17")


def test_run_and_warm_make_the_variant_first(daemon, tmp_path):
    target = tmp_path / "house.png"
    ran = daemon.json(
        "run", "lab/sd15", "a red house", "--variant", "int8", "--seed", "7", "--steps", "2",
        "--size", "64x64", "--device", "cpu", "--output", str(target),
    )  # fmt: skip
    assert (ran["variant"], target.exists()) == ("int8", True)
    warm = daemon.json("warm", "lab/sd15", "--variant", "bf16", "--device", "cpu")
    assert (warm["variant"], warm["commit"]) == ("bf16", ran["commit"])
    assert {variant for _, _, variant in shown(daemon)} == {"int8", "bf16"}
    made = {
        Path(made["path"]).name for made in daemon.json("ls")["snapshots"][0]["variants"].values()
    }
    assert ran["commit"] not in made


LACKING = """
import sys
import zhcache

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchao":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Refuse())
try:
    zhcache.load_pipeline("lab/flux", "int8", device="cpu")
except zhcache.UsageError as error:
    print(error.code, error, error.hint)
"""


def test_environment_without_the_package_is_told_what_to_install(daemon):
    daemon.json("prefetch", "lab/flux", "--variant", "int8")
    done = subprocess.run(
        [sys.executable, "-c", LACKING], env=daemon.environ, capture_output=True, text=True
    )
    assert "usage this variant is read with torchao" in done.stdout, done.stderr[-2000:]
    assert "pip install" in done.stdout
