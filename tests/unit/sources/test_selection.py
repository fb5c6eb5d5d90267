import pytest

from zhcache.errors import NotFound, UnsafeWeights, UsageError
from zhcached.sources.base import RemoteFile
from zhcached.sources.pickles import is_pickle
from zhcached.sources.pipeline_files import components_of
from zhcached.sources.selection import select

SD15 = [
    ".gitattributes",
    "README.md",
    "model_index.json",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "v1-5-pruned-emaonly.safetensors",
    "v1-inference.yaml",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/model.fp16.safetensors",
    "safety_checker/model.safetensors",
    "safety_checker/pytorch_model.bin",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.onnx",
    "text_encoder/model.safetensors",
    "text_encoder/openvino_model.bin",
    "text_encoder/openvino_model.xml",
    "text_encoder/pytorch_model.bin",
    "text_encoder/pytorch_model.fp16.bin",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]
SD15_PICKLES = {
    "v1-5-pruned.ckpt",
    "safety_checker/pytorch_model.bin",
    "text_encoder/pytorch_model.bin",
    "text_encoder/pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.non_ema.bin",
    "vae/diffusion_pytorch_model.bin",
}


def files(paths):
    return [RemoteFile(path, 10, "a" * 64) for path in paths]


def taken(paths, **options):
    return {file.path for file in select(files(paths), **options).taken}


def test_select_takes_everything_but_pickles_that_have_a_safe_twin():
    chosen = select(files(SD15))
    assert {file.path for file in chosen.taken} == set(SD15) - SD15_PICKLES
    assert set(chosen.left_out) == SD15_PICKLES
    assert set(chosen.left_out.values()) == {"pickle beside safetensors"}
    assert chosen.is_complete


def test_select_only_pipeline_takes_one_dtype_of_each_component():
    assert taken(SD15, only_pipeline=True) == {
        "README.md",
        "model_index.json",
        "feature_extractor/preprocessor_config.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_select_only_pipeline_takes_the_published_variant_where_there_is_one():
    paths = [path for path in SD15 if path != "vae/diffusion_pytorch_model.fp16.safetensors"]
    chosen = taken(paths, only_pipeline=True, variants=["fp16"])
    weights = {path for path in chosen if path.endswith(".safetensors")}
    assert weights == {
        "safety_checker/model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_select_falls_back_to_plain_weights_for_a_variant_that_no_component_has():
    plain = taken(SD15, only_pipeline=True)
    assert taken(SD15, only_pipeline=True, variants=["bf16"]) == plain


def test_select_takes_what_several_variants_need():
    both = taken(SD15, only_pipeline=True, variants=["fp16", None])
    plain = taken(SD15, only_pipeline=True)
    assert both == plain | taken(SD15, only_pipeline=True, variants=["fp16"])
    assert both > plain


def test_select_only_pipeline_keeps_a_component_published_in_variants_alone():
    paths = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ]
    assert taken(paths, only_pipeline=True) == set(paths)


@pytest.mark.parametrize(
    ("shards", "index"),
    [
        (
            "transformer/diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors",
            "transformer/diffusion_pytorch_model.safetensors.index.fp16.json",
        ),
        (
            "transformer/diffusion_pytorch_model-0000{}-of-00002.fp16.safetensors",
            "transformer/diffusion_pytorch_model.safetensors.fp16.index.json",
        ),
    ],
    ids=["present", "deprecated"],
)
def test_select_only_pipeline_keeps_shards_with_their_index(shards, index):
    variant = {shards.format(1), shards.format(2), index}
    plain = {
        "transformer/diffusion_pytorch_model-00001-of-00001.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
    }
    small = {"model_index.json", "transformer/config.json"}
    listing = sorted(variant | plain | small)
    assert taken(listing, only_pipeline=True) == plain | small
    assert taken(listing, only_pipeline=True, variants=["fp16"]) == variant | small


def test_select_only_pipeline_drops_single_file_checkpoints_of_the_root():
    paths = ["model_index.json", "flux1-dev.safetensors", "ae.safetensors", "dev_grid.jpg"]
    paths += ["transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"]
    assert taken(paths, only_pipeline=True) == {"model_index.json", *paths[4:]}


def test_select_only_pipeline_follows_model_index_when_it_is_known():
    paths = ["model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    extra = ["vae_1_0/config.json", "vae_1_0/diffusion_pytorch_model.safetensors"]
    named = components_of(b'{"_class_name":["a","B"],"vae":["diffusers","AutoencoderKL"],"x":1}')
    assert named == {"vae"}
    assert taken(paths + extra, only_pipeline=True) == {*paths, *extra}
    assert taken(paths + extra, only_pipeline=True, components=named) == set(paths)


def test_components_are_unknown_when_model_index_is_not_json():
    assert components_of(b"<html>") is None
    assert components_of(b"[" * 100_000) is None


def test_select_only_pipeline_reads_a_transformers_repository():
    paths = ["config.json", "generation_config.json", "model.safetensors", "model.fp16.safetensors"]
    paths += ["tf_model.h5", "flax_model.msgpack", "consolidated.safetensors", "tokenizer.json"]
    paths += ["onnx/model.onnx"]
    assert taken(paths, only_pipeline=True) == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"
    }  # fmt: skip


def test_select_only_pipeline_keeps_a_lora_whole():
    assert taken(["README.md", "my_style.safetensors"], only_pipeline=True) == {
        "README.md",
        "my_style.safetensors",
    }


def test_select_counts_what_no_pipeline_reads():
    single = RemoteFile("v1-5-pruned.safetensors", 7_000, "a" * 64)
    listing = [*files(["model_index.json", "unet/config.json"]), single]
    assert select(listing).redundant_bytes == 7_000
    assert select(listing, only_pipeline=True).redundant_bytes == 0
    assert not select(listing, only_pipeline=True).is_complete


def test_select_refuses_weights_that_exist_only_as_pickle():
    with pytest.raises(UnsafeWeights) as caught:
        select(files(["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"]))
    assert caught.value.exit_code == 8
    assert "unet/diffusion_pytorch_model.bin" in caught.value.message
    assert "safetensors" in caught.value.hint


def test_select_refuses_one_component_that_is_pickle_beside_safe_ones():
    paths = [path for path in SD15 if path != "text_encoder/model.safetensors"]
    paths.remove("text_encoder/model.fp16.safetensors")
    with pytest.raises(UnsafeWeights, match="text_encoder"):
        select(files(paths))


def test_select_takes_the_rest_when_the_pickles_are_excluded():
    paths = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"]
    assert taken(paths, exclude=["*.bin"]) == set(paths[:2])


def test_select_refuses_when_only_pickles_are_asked_for():
    with pytest.raises(UnsafeWeights):
        select(files(SD15), include=["*.ckpt"])


def test_select_leaves_out_root_checkpoint_of_a_pipeline_without_root_safetensors():
    chosen = select(files(["model_index.json", "sd-v1-4.ckpt", "unet/config.json"]))
    assert chosen.left_out == {"sd-v1-4.ckpt": "pickle beside safetensors"}


def test_select_refuses_root_checkpoint_that_stands_alone():
    with pytest.raises(UnsafeWeights):
        select(files(["README.md", "model.ckpt"]))


def test_select_leaves_training_state_out_without_a_fuss():
    paths = ["README.md", "lora.safetensors", "checkpoint-5/optimizer.bin", "training_args.bin"]
    paths += ["checkpoint-5/scheduler.pt", "checkpoint-5/rng_state_0.pth", "random_states_0.pkl"]
    chosen = select(files(paths))
    assert {file.path for file in chosen.taken} == set(paths[:2])
    assert chosen.is_complete


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("x.ckpt", True),
        ("x.PT", True),
        ("x.pth", True),
        ("x.pkl", True),
        ("pytorch_model-00001-of-00007.bin", True),
        ("diffusion_pytorch_model.fp16.bin", True),
        ("adapter_model.bin", True),
        ("models/ip-adapter_sd15.bin", True),
        ("pytorch_lora_weights.bin", True),
        ("learned_embeds.bin", True),
        ("model.bin", True),
        ("model-00001-of-00002.bin", True),
        ("consolidated.00.bin", True),
        ("openvino_model.bin", False),
        ("vocab.bin", False),
        ("model.safetensors", False),
        ("ckpt", False),
        ("modelling.bin", False),
    ],
)
def test_is_pickle_judges_by_name(path, expected):
    assert is_pickle(path) is expected


def test_is_pickle_knows_openvino_by_its_xml():
    assert not is_pickle("vae/model.bin", {"vae/model.bin", "vae/model.xml"})


def test_select_includes_by_glob_and_by_folder():
    assert taken(SD15, include=["unet/"], exclude=["*non_ema*", "*.fp16.*"]) == {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert taken(SD15, include=["*.json"]) == {path for path in SD15 if path.endswith(".json")}


def test_select_globs_are_case_sensitive():
    with pytest.raises(NotFound):
        select(files(SD15), include=["UNET/"])


def test_select_says_why_each_file_is_left_out():
    left_out = select(files(["a.json", "b.json", "c.txt"]), include=["*.json"], exclude=["b*"])
    assert left_out.left_out == {
        "b.json": "matched by --exclude b*",
        "c.txt": "not matched by --include",
    }


def test_select_refuses_globs_that_leave_nothing():
    with pytest.raises(NotFound):
        select(files(SD15), exclude=["*"])


def test_select_refuses_an_empty_glob():
    with pytest.raises(UsageError):
        select(files(SD15), include=[""])
