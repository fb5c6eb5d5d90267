"""``only_pipeline`` against the code it imitates: diffusers' own choice of files."""

import fnmatch
import json

import pytest
from diffusers.pipelines import pipeline_loading_utils as loading

from zhcached.sources.base import RemoteFile
from zhcached.sources.pipeline_files import components_of
from zhcached.sources.selection import select


def component(folder, weights, *, variants=(), shards=0, configs=("config.json",)):
    names = [f"{folder}/{config}" for config in configs]
    for variant in ("", *(f".{v}" for v in variants)):
        if shards:
            names += [
                f"{folder}/{weights}{variant}-{n:05}-of-{shards:05}.safetensors"
                for n in range(1, shards + 1)
            ]
            names.append(f"{folder}/{weights}.safetensors.index{variant}.json")
        else:
            names.append(f"{folder}/{weights}{variant}.safetensors")
    return names


SMALL = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json"]
SMALL += ["tokenizer/merges.txt", "tokenizer/tokenizer_config.json"]
UNET = component("unet", "diffusion_pytorch_model", variants=["fp16", "non_ema"])
VAE = component("vae", "diffusion_pytorch_model", variants=["fp16"])
TEXT = component("text_encoder", "model", variants=["fp16"])
FRAMEWORKS = ["unet/diffusion_flax_model.msgpack", "vae/model.onnx", "text_encoder/tf_model.h5"]
FRAMEWORKS += ["text_encoder/openvino_model.xml", "text_encoder/openvino_model.bin"]
LISTINGS = {
    "sd15": [*SMALL, *UNET, *VAE, *TEXT, *FRAMEWORKS, "v1-5-pruned.safetensors"],
    "sdxl": [
        *SMALL, *UNET, *VAE, *TEXT,
        *component("text_encoder_2", "model", variants=["fp16"]),
        *component("vae_1_0", "diffusion_pytorch_model"),
        "sd_xl_base_1.0.safetensors", "01.png",
    ],
    "flux": [
        *SMALL, *component("transformer", "diffusion_pytorch_model", shards=3), *VAE,
        *component("text_encoder", "model"), *component("text_encoder_2", "model", shards=2),
        "flux1-dev.safetensors", "ae.safetensors",
    ],
    "sharded_variants": [
        *SMALL, *component("transformer", "diffusion_pytorch_model", shards=2, variants=["fp16"]),
        *VAE, *TEXT,
    ],
    "variant_in_one_component_only": [
        *SMALL, *UNET, *component("vae", "diffusion_pytorch_model"),
        *component("text_encoder", "model"),
    ],
    "deprecated_shards": [
        *SMALL, "unet/config.json",
        *(f"unet/diffusion_pytorch_model-{n:05}-of-00002.safetensors" for n in (1, 2)),
        *(f"unet/diffusion_pytorch_model-{n:05}-of-00002.fp16.safetensors" for n in (1, 2)),
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors.fp16.index.json",
    ],
}  # fmt: skip


def model_index(listing):
    folders = {path.partition("/")[0] for path in listing if "/" in path} - {"vae_1_0"}
    return {"_class_name": "StableDiffusionPipeline"} | {f: ["diffusers", "X"] for f in folders}


def read_by_diffusers(listing, variant):
    """What ``DiffusionPipeline.download`` puts into allow_patterns, applied to the listing."""
    folders = [name for name in model_index(listing) if not name.startswith("_")]
    weighty = {
        path.rpartition("/")[0]
        for path in loading.filter_model_files(listing)
        if path.rpartition("/")[0] in folders
    }
    ignored = loading._get_ignore_patterns(
        [], weighty, set(listing), True, False, None, False, False, variant
    )
    files, _ = loading.variant_compatible_siblings(
        set(listing), variant=variant, ignore_patterns=ignored
    )
    allowed = [*files, *(f"{folder}/*" for folder in folders if folder not in weighty)]
    allowed += [f"{folder}/config.json" for folder in weighty]
    allowed += ["scheduler_config.json", "config.json", "model_index.json", "pipeline.py"]
    ignored = [*ignored, *(f"{pattern}.index.*json" for pattern in ignored)]
    return {
        path
        for path in listing
        if any(fnmatch.fnmatch(path, glob) for glob in allowed)
        and not any(fnmatch.fnmatch(path, glob) for glob in ignored)
    }


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (name, variant)
        for name, listing in LISTINGS.items()
        for variant in (None, "fp16")
        if variant is None or any(".fp16" in path for path in listing)
    ],
)
def test_only_pipeline_takes_what_diffusers_reads(name, variant):
    listing = LISTINGS[name]
    files = [RemoteFile(path, 1, "a" * 64) for path in listing]
    named = components_of(json.dumps(model_index(listing)).encode())
    exact = select(files, only_pipeline=True, variants=[variant], components=named)
    guessed = select(files, only_pipeline=True, variants=[variant])
    needed = read_by_diffusers(listing, variant)
    # Weights no component of the pipeline is made of are the one thing taken less.
    needed -= {path for path in needed if path.startswith("vae_1_0/")}
    assert {file.path for file in exact.taken} == needed
    assert {file.path for file in guessed.taken} >= needed
