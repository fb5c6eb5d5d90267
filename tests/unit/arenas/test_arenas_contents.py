"""Which components have weights, from the manifest and the index alone."""

import json

import pytest

from harness.fillkit import files_of
from harness.storekit import COMMIT, publish
from zhcache.errors import IntegrityError, NotFound, UsageError
from zhcache.protocol.names import parse_repo
from zhcached.errors import StoreDamaged
from zhcached.residency.arena.contents import contents

OTHER = "beef" + "0" * 36
REPO = parse_repo("lab/pipe")


def told(store, repo=REPO, commit=COMMIT):
    return {one.name: one for one in contents(store, repo, commit)}


def test_components_with_weights_and_their_bytes(store):
    assert {name: one.bytes for name, one in told(store).items()} == {"unet": 3000, "vae": 1000}


def test_only_the_weights_that_loading_reads_count(store):
    files = files_of(unet=b"u" * 3000)
    files["unet/diffusion_pytorch_model.fp16.safetensors"] = b"h" * 1500
    files["stray/model.safetensors"] = b"s" * 99
    publish(store, files, repo="lab/two", commit=OTHER)
    assert {n: c.bytes for n, c in told(store, parse_repo("lab/two"), OTHER).items()} == {
        "unet": 3000
    }


def test_equal_component_of_another_repository_is_the_same(store):
    publish(store, files_of(unet=b"x" * 10, vae=b"v" * 1000), repo="lab/tuned", commit=OTHER)
    tuned = told(store, parse_repo("lab/tuned"), OTHER)
    assert tuned["vae"].digest == told(store)["vae"].digest
    assert tuned["unet"].digest != told(store)["unet"].digest


def test_component_in_two_precisions_is_known_by_what_decides_between_them(store):
    both = files_of(unet=b"u" * 10, vae=b"v" * 1000)
    both["vae/diffusion_pytorch_model.fp16.safetensors"] = b"h" * 500
    halved = dict(both)
    halved["unet/diffusion_pytorch_model.fp16.safetensors"] = halved.pop(
        "unet/diffusion_pytorch_model.safetensors"
    )
    publish(store, both, repo="lab/both", commit=OTHER)
    publish(store, halved, repo="lab/halved", commit=OTHER)
    plain = told(store, parse_repo("lab/both"), OTHER)
    other = told(store, parse_repo("lab/halved"), OTHER)
    assert plain["vae"].digest != other["vae"].digest


@pytest.mark.parametrize("change", ["class", "config", "name"])
def test_class_configuration_and_name_are_part_of_it(store, change):
    files = files_of(vae=b"v" * 1000)
    if change == "class":
        files["model_index.json"] = json.dumps({"vae": ["diffusers", "Other"]}).encode()
    if change == "config":
        files["vae/config.json"] = b'{"scale": 2}'
    if change == "name":
        files = files_of(vae_1=b"v" * 1000)
    publish(store, files, repo="lab/tuned", commit=OTHER)
    (one,) = contents(store, parse_repo("lab/tuned"), OTHER)
    assert one.digest != told(store)["vae"].digest


def test_folder_without_index_is_no_pipeline(store):
    publish(store, {"unet/model.safetensors": b"x"}, repo="lab/lora", commit=OTHER)
    with pytest.raises(UsageError, match="is no pipeline"):
        contents(store, parse_repo("lab/lora"), OTHER)


@pytest.mark.parametrize("index", [b"[1]", b"{", b"\xff\xfe", b"{" * 100_000, b" " * 2**21 + b"{}"])
def test_index_published_malformed_is_no_damage_of_the_store(store, index):
    publish(store, files_of(unet=b"x") | {"model_index.json": index}, repo="lab/bad", commit=OTHER)
    with pytest.raises(IntegrityError, match=r"model_index\.json of lab/bad") as refused:
        contents(store, parse_repo("lab/bad"), OTHER)
    assert not isinstance(refused.value, StoreDamaged)
    assert "another revision" in refused.value.hint


@pytest.mark.parametrize("content", [None, b"{"])
def test_index_that_is_not_what_the_store_took_in_is_damage(store, content):
    manifest = store.manifests.read(REPO, COMMIT)
    (digest,) = [file.sha256 for file in manifest.files if file.path == "model_index.json"]
    blob = store.layout.blob(digest)
    blob.unlink()
    if content is not None:
        blob.write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"model_index\.json"):
        contents(store, REPO, COMMIT)


def test_snapshot_that_is_not_here_is_not_found(store):
    with pytest.raises(NotFound):
        contents(store, REPO, OTHER)
