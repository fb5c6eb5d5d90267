"""What is taken of a listing where pickles may be converted, and what it becomes."""

import pytest

from zhcache.errors import UnsafeWeights
from zhcached.sources.base import RemoteFile
from zhcached.sources.pickles import safe_path
from zhcached.sources.selection import select

CONVERTED = "converted to safetensors"
SMALL = ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"]
SHARDS = [f"text_encoder/pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
INDEX = "text_encoder/pytorch_model.bin.index.json"
UNET = "unet/diffusion_pytorch_model.bin"
VAE = ["vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.safetensors"]
LISTING = [*SMALL, *SHARDS, INDEX, UNET, *VAE, "v1-4.ckpt", "unet/optimizer.bin"]


def chosen(paths=LISTING, **options):
    return select([RemoteFile(path, 10, "a" * 64) for path in paths], **options)


def taken(selection):
    return {file.path for file in selection.taken}


def test_pickles_without_safetensors_are_taken_only_to_be_converted():
    found = chosen(allow_pickle=True)
    assert found.converted == {UNET, *SHARDS, INDEX}
    assert taken(found) == {*SMALL, UNET, *SHARDS, INDEX, VAE[1]}
    assert {p for p, why in found.left_out.items() if why == CONVERTED} == found.converted
    assert found.left_out[VAE[0]] == found.left_out["v1-4.ckpt"] == "pickle beside safetensors"
    assert found.left_out["unet/optimizer.bin"] == "training state, not weights"
    assert found.is_complete


def test_without_leave_they_are_refused_and_the_hint_says_how():
    with pytest.raises(UnsafeWeights) as refused:
        chosen()
    assert "--allow-pickle" in refused.value.hint


def test_what_was_converted_before_needs_no_leave_and_is_not_taken():
    found = chosen(converted=[UNET, *SHARDS, INDEX])
    assert found.converted == frozenset()
    assert taken(found) == {*SMALL, VAE[1]}
    assert found.left_out[UNET] == found.left_out[INDEX] == CONVERTED
    assert found.is_complete
    with pytest.raises(UnsafeWeights, match="text_encoder"):
        chosen(converted=[UNET])


def test_only_pickles_may_be_asked_for():
    assert taken(chosen(allow_pickle=True, include=["*.bin"])) == {UNET, *SHARDS}
    assert taken(chosen(include=[UNET], converted=[UNET])) == set()
    with pytest.raises(UnsafeWeights):
        chosen(["model_index.json", "v1-4.ckpt"], allow_pickle=True, include=["*.ckpt"])


def test_only_pipeline_takes_those_that_it_reads():
    paths = [*SMALL, UNET, "unet/diffusion_pytorch_model.fp16.bin", *SHARDS, INDEX, VAE[1]]
    plain = chosen(paths, allow_pickle=True, only_pipeline=True)
    assert plain.converted == {UNET, *SHARDS, INDEX}
    half = chosen(paths, allow_pickle=True, only_pipeline=True, variants=["fp16"])
    assert "unet/diffusion_pytorch_model.fp16.bin" in half.converted
    assert UNET not in half.converted


def test_two_pickles_do_not_become_one_file():
    paths = ["config.json", "weights.ckpt", "weights.pt"]
    with pytest.raises(UnsafeWeights, match=r"weights\.safetensors"):
        chosen(paths, allow_pickle=True)
    assert chosen(paths, allow_pickle=True, exclude=["*.pt"]).converted == {"weights.ckpt"}


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors"),
        ("unet/diffusion_pytorch_model.fp16.bin", "unet/diffusion_pytorch_model.fp16.safetensors"),
        ("pytorch_model.bin", "model.safetensors"),
        ("a/pytorch_model.fp16.bin", "a/model.fp16.safetensors"),
        (SHARDS[0], "text_encoder/model-00001-of-00002.safetensors"),
        ("a/pytorch_model-00001-of-00002.fp16.bin", "a/model-00001-of-00002.fp16.safetensors"),
        (INDEX, "text_encoder/model.safetensors.index.json"),
        ("a/pytorch_model.bin.index.fp16.json", "a/model.safetensors.index.fp16.json"),
        ("pytorch_lora_weights.bin", "pytorch_lora_weights.safetensors"),
        ("v1.4/sd-v1.4.ckpt", "v1.4/sd-v1.4.safetensors"),
    ],
)
def test_it_is_called_as_the_libraries_call_it(path, safe):
    assert safe_path(path) == safe
