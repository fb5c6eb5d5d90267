"""Variants that are held, through the real daemon and command line: told, damaged, let go."""

import json

import msgspec
import pytest

from harness.daemon import source
from harness.storekit import MADE, open_store
from zhcache.protocol.names import parse_repo
from zhcached.store.snapshots import DERIVED, Derived, ManifestFile

pytestmark = pytest.mark.journey
REPO = "org/name"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FILES = {"model_index.json": b"{}", WEIGHTS: bytes(range(256)) * 400, "vae/config.json": b"{ }"}
HALF = bytes(range(256)) * 200


@pytest.fixture
def daemon(hub, make_daemon):
    """Has a repository and its variant ``fp16``, written into the store while it was down."""
    hub.add(REPO, FILES)
    daemon = make_daemon(source(hub)).start()
    daemon.cli("prefetch", REPO)
    daemon.stop()
    store = open_store(daemon.home)
    base = store.resolve(parse_repo(REPO), None)
    came = store.intake.put(HALF, "test")
    files = [file for file in base.files if file.path != WEIGHTS]
    derived = Derived(base.commit, "fp16", "0" * 64)
    files.append(ManifestFile(WEIGHTS, came.size, came.sha256))
    made = msgspec.structs.replace(
        base, commit=MADE, source=DERIVED, derived=derived, files=tuple(files)
    )
    store.publish(made, None)
    store.close()
    return daemon.start()


def test_variant_is_told_by_each_command(daemon):
    (snapshot,) = daemon.json("ls")["snapshots"]
    folder = daemon.cli("path", REPO, "--variant", "fp16").stdout.strip()
    assert snapshot["variants"]["fp16"]["path"] == folder
    assert folder != snapshot["path"]
    shown = daemon.json("show", REPO, "--variant", "fp16")
    assert (shown["commit"], shown["variant"]) == (snapshot["commit"], "fp16")
    sizes = {file["path"]: file["size"] for file in shown["files"]}
    assert sizes == {**{path: len(c) for path, c in FILES.items()}, WEIGHTS: len(HALF)}
    (use,) = daemon.json("du")["repos"]
    assert use["variants"][0]["bytes_own"] == len(HALF)
    assert "fp16" in daemon.cli("ls").stdout
    assert "(fp16)" in daemon.cli("du").stdout
    assert "(fp16)" in daemon.cli("gc", "--dry-run").stdout
    assert daemon.cli("path", REPO, "--variant", "int4", check=False).returncode == 4
    assert json.loads(daemon.cli("lock", REPO).stdout)["repos"][0]["commit"] == snapshot["commit"]


def test_prefetch_again_leaves_the_variant_and_rm_of_it_the_rest(daemon):
    daemon.cli("prefetch", REPO)
    daemon.cli("path", REPO, "--variant", "fp16")
    assert daemon.cli("rm", REPO, "--variant", "fp16").stdout.startswith(f"{REPO}: variant fp16")
    assert daemon.json("gc")["bytes_freed"] == len(HALF)
    assert daemon.cli("path", REPO, "--variant", "fp16", check=False).returncode == 4
    daemon.cli("path", REPO)
    daemon.cli("verify")


def test_rm_takes_variants_along(daemon):
    assert "with its variants fp16" in daemon.cli("rm", REPO).stdout
    daemon.cli("gc")
    assert daemon.blobs() == {}


def test_lost_source_of_a_variant_is_fetched_again_by_repair(daemon):
    (snapshot,) = daemon.json("ls")["snapshots"]
    records = daemon.home / "repos" / "models--org--name"
    daemon.stop()
    (records / "snapshots" / f"{snapshot['commit']}.json").unlink()
    for ref in (records / "refs").iterdir():
        ref.unlink()
    daemon.start()
    assert not daemon.json("ls")["snapshots"][0]["complete"]
    missing = daemon.json("verify", code=9)["missing"]
    assert missing == [f"{REPO} {snapshot['commit']}: its manifest"]
    daemon.cli("repair")
    (mended,) = daemon.json("ls")["snapshots"]
    assert (mended["commit"], mended["complete"]) == (snapshot["commit"], True)
    assert list(mended["variants"]) == ["fp16"]
