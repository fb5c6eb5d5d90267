"""What a held pipeline's weights take, read from the store's headers."""

import json

import pytest

from harness.storekit import COMMIT, MADE, open_store, publish, publish_variant, sha256
from zhcache.errors import IntegrityError, NotFound, UsageError
from zhcached.convert.weighed import MAX_CONFIG, weighed

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
}
UNET = "unet/diffusion_pytorch_model"
VAE = "vae/diffusion_pytorch_model"


def tensors(**sizes):
    """Returns a safetensors file with tensors of so many bytes, ``name_dtype=bytes``."""
    table, at = {}, 0
    for named, size in sizes.items():
        name, _, dtype = named.rpartition("_")
        width = {"F16": 2, "F32": 4, "I8": 1}[dtype]
        table[name.replace("__", ".")] = {
            "dtype": dtype, "shape": [size // width], "data_offsets": [at, at + size],
        }  # fmt: skip
        at += size
    head = json.dumps(table).encode()
    return len(head).to_bytes(8, "little") + head + b"\0" * at


def pipeline(**more):
    return {
        "model_index.json": json.dumps(INDEX).encode(),
        "unet/config.json": b'{"block_out_channels": [320, 640], "sample_size": 64}',
        f"{UNET}.safetensors": tensors(down__0__a_F16=400, down__0__b_F16=100, mid__a_F32=40),
        f"{VAE}.safetensors": tensors(a_F32=80),
        **more,
    }


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def test_components_are_told_with_what_is_reckoned_from(store):
    publish(store, pipeline())
    found = weighed(store, "lab/tiny", None, None)
    assert (found.repo, found.commit, found.variant) == ("lab/tiny", COMMIT, None)
    assert found.pipeline == "StableDiffusionPipeline"
    assert list(found.parts) == ["scheduler", "unet", "vae"]
    unet = found.parts["unet"]
    assert (unet.class_name, unet.bytes, unet.largest, unet.block) == (
        "UNet2DConditionModel", 540, 400, 500,
    )  # fmt: skip
    assert (unet.dtype, found.parts["vae"].dtype) == ("float16", "float32")
    assert unet.config == {"block_out_channels": [320, 640], "sample_size": 64}
    assert (found.parts["scheduler"].bytes, found.parts["scheduler"].dtype) == (0, "")


def test_shards_count_together_and_other_precisions_do_not(store):
    shards = {
        f"{UNET}.safetensors": tensors(whole_F32=4000),
        f"{UNET}.fp16.safetensors": tensors(half_F16=2000),
        f"{VAE}-00001-of-00002.safetensors": tensors(a_F32=80),
        f"{VAE}-00002-of-00002.safetensors": tensors(b_F32=120),
    }
    files = pipeline(**shards)
    del files[f"{VAE}.safetensors"]
    publish(store, files)
    found = weighed(store, "lab/tiny", "main", None)
    assert (found.parts["unet"].bytes, found.parts["vae"].bytes) == (4000, 200)


def test_what_has_one_precision_alone_is_told_in_it(store):
    files = pipeline(**{f"{UNET}.fp16.safetensors": tensors(half_F16=2000)})
    del files[f"{UNET}.safetensors"]
    publish(store, files)
    assert weighed(store, "lab/tiny", None, None).parts["unet"].bytes == 2000


def test_a_quantized_component_computes_in_what_its_rest_is(store):
    quantized = tensors(q_I8=900, q_scale_F32=800, norm_F16=20)
    files = {f"{UNET}.safetensors": quantized, "unet/config.json": b'{"quantization_config": {}}'}
    publish(store, pipeline(**files))
    assert weighed(store, "lab/tiny", None, None).parts["unet"].dtype == "float16"


def test_a_variant_is_weighed_by_its_own_files(store):
    publish(store, pipeline())
    publish_variant(store, pipeline(**{f"{UNET}.safetensors": tensors(a_F16=2)}), source={})
    found = weighed(store, "lab/tiny", None, "fp16")
    assert (found.commit, found.variant) == (COMMIT, "fp16")
    assert found.commit != MADE
    assert found.parts["unet"].bytes == 2


@pytest.mark.parametrize(
    "config", [b"{", b"[" * 100_000, b"[]", b'{"sample_size": -1}', b" " * MAX_CONFIG + b"{}"]
)
def test_a_configuration_that_says_nothing_is_left_out(store, config):
    publish(store, pipeline(**{"unet/config.json": config}))
    assert weighed(store, "lab/tiny", None, None).parts["unet"].config == {}


def test_what_is_no_pipeline_or_not_whole_is_named(store):
    with pytest.raises(NotFound, match="lab/none"):
        weighed(store, "lab/none", None, None)
    publish(store, {"config.json": b"{}"})
    with pytest.raises(UsageError, match="no pipeline"):
        weighed(store, "lab/tiny", None, None)


def test_a_header_that_was_published_so_is_named(store):
    publish(store, pipeline(**{f"{UNET}.safetensors": tensors(a_F32=40)[:-1]}))
    named = r"unet/diffusion_pytorch_model\.safetensors"
    with pytest.raises(IntegrityError, match=named) as refused:
        weighed(store, "lab/tiny", None, None)
    # Not what an import says, which takes nothing in: it is held, as it was published.
    assert "take another revision" in refused.value.hint


def test_a_blob_that_went_meanwhile_is_to_be_fetched_again(store):
    files = pipeline()
    publish(store, files)
    store.blobs.unlink(sha256(files[f"{UNET}.safetensors"]))
    with pytest.raises(NotFound, match=r"diffusion_pytorch_model\.safetensors of lab/tiny") as gone:
        weighed(store, "lab/tiny", None, None)
    assert "prefetch lab/tiny" in gone.value.hint
