"""Which files of a snapshot are handed over, and how much of them."""

import pytest

from harness.storekit import manifest_of
from zhcache.errors import NotPermitted
from zhcache.protocol.residency import MAX_SMALL_BYTES, MAX_SMALL_FILE, MAX_SMALL_FILES
from zhcached.api.small import check_bounds, small, weights
from zhcached.store.snapshots import ManifestFile

FILES = (
    "README.md",
    "model_index.json",
    "pipeline.py",
    "all-in-one.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model-00001-of-00001.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/WEIGHTS.PT",
    "tokenizer/tokenizer.json",
    "tokenizer/merges.txt",
    "tokenizer/spiece.model",
    "samples/one.json",
    "samples/one.safetensors",
)
COMPONENTS = frozenset({"unet", "tokenizer"})


def test_what_a_pipeline_reads_besides_its_weights_is_small():
    manifest = manifest_of(dict.fromkeys(FILES, b""))
    assert [file.path for file in small(manifest, COMPONENTS)] == [
        "README.md",
        "model_index.json",
        "pipeline.py",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "tokenizer/tokenizer.json",
        "tokenizer/merges.txt",
        "tokenizer/spiece.model",
    ]
    assert weights(manifest, COMPONENTS) == [
        "all-in-one.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model-00001-of-00001.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/WEIGHTS.PT",
    ]


@pytest.mark.parametrize(
    ("count", "size", "words"),
    [
        (1, MAX_SMALL_FILE + 1, "0.json of lab/tiny has 67108865 bytes"),
        (MAX_SMALL_BYTES // MAX_SMALL_FILE + 1, MAX_SMALL_FILE, "5 files of 335544320 bytes"),
        (MAX_SMALL_FILES + 1, 0, "513 files of 0 bytes"),
    ],
)
def test_more_than_may_be_handed_over_is_refused_with_what_to_do(count, size, words):
    files = [ManifestFile(f"{number}.json", size, "0" * 64) for number in range(count)]
    with pytest.raises(NotPermitted, match=words) as raised:
        check_bounds("lab/tiny", files)
    assert "mode='resident'" in raised.value.hint


def test_as_much_as_may_be_is_handed_over():
    most = MAX_SMALL_BYTES // MAX_SMALL_FILE
    check_bounds("lab/tiny", [ManifestFile("a", MAX_SMALL_FILE, "0" * 64)] * most)
    check_bounds("lab/tiny", [ManifestFile("a", 0, "0" * 64)] * MAX_SMALL_FILES)
