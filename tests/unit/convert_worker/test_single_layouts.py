"""The models that people share, in their full size and without weights: no tensor is left over.

The configurations are those of the published repositories, as far as shapes and names follow from
them.
"""

import json

import numpy as np
import pytest
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from harness import ldm
from harness.extracted import UNET, VAE
from zhcache.pipeline.skeleton import Weightless
from zhcache.protocol.conversion import Extract
from zhcached.workers import single, single_parts
from zhcached.workers.tensors import TensorInfo

SD1_UNET = {"sample_size": 64, "cross_attention_dim": 768}
SD2_UNET = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
SDXL_UNET = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER_UNET = {
    **SDXL_UNET,
    "cross_attention_dim": 1280,
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560,
}
VAE_CONFIG = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}


def clip(kind, width, layers):
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=width // 64,
        num_hidden_layers=layers,
        projection_dim=width,
    )
    return lambda: kind(config)


CLIP_L = clip(CLIPTextModel, 768, 12)
CLIP_H = clip(CLIPTextModel, 1024, 23)
CLIP_G = clip(CLIPTextModelWithProjection, 1280, 32)
REFINER = {"text_encoder_2": ("conditioner.embedders.0.model.", "open_clip")}

MODELS = {
    "sd1": (SD1_UNET, ldm.SD1, [CLIP_L], (686, 248, 196)),
    "sd2": (SD2_UNET, ldm.SD2, [CLIP_H], (686, 248, 372)),
    "inpaint": ({**SD1_UNET, "in_channels": 9}, ldm.SD1, [CLIP_L], (686, 248, 196)),
    "sdxl": (SDXL_UNET, ldm.SDXL, [CLIP_L, CLIP_G], (1680, 248, 196, 517)),
    "refiner": (REFINER_UNET, REFINER, [CLIP_G], (1220, 248, 517)),
}
"""U-Net, text encoders' names and modules, and how many tensors each published component has."""


SLOW = ("inpaint", "refiner")
"""What shows little that the others do not."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in MODELS]
)
def test_every_tensor_of_the_published_model_is_found(name, tmp_path):
    unet, text, encoders, counts = MODELS[name]
    with Weightless(everything=False):
        modules = {
            "unet": UNet2DConditionModel.from_config(unet),
            "vae": AutoencoderKL.from_config(VAE_CONFIG),
        }
    with Weightless(everything=True):
        modules |= {part: make() for part, make in zip(text, encoders, strict=True)}
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(dict(modules[part].config)))

    def load(file):
        # Of any size, in two bytes.
        held = modules[file.parent.name].state_dict()
        return {key: np.broadcast_to(np.float16(0), tuple(t.shape)) for key, t in held.items()}

    infos, at = {}, 0
    for key, tensor in ldm.checkpoint(tmp_path, text, load).items():
        size = 2 * tensor.size
        infos[key] = TensorInfo(key, "F16", tensor.shape, at, at + size, "m")
        at += size
    pieces = [UNET, VAE, *((part, *how) for part, how in text.items())]
    for (part, prefix, way), count in zip(pieces, counts, strict=True):
        request = Extract(
            name="m", size=at, folder="", like="demo/base", component=part, library="",
            class_name="", way=way, prefix=prefix, bytes=at, output="made",
        )  # fmt: skip
        parts = single_parts.of_component(request, infos)
        made = single_parts.converted(request, parts, modules[part])
        kept = single.checked(request, parts, made, modules[part])
        assert len(kept) == count
        shapes = {key: t.shape for key, t in load(tmp_path / part / "f").items()}
        if way not in ("unet", "vae"):
            shapes = ldm.published(shapes)
        assert {key: one.shape for key, one in kept.items()} == shapes
