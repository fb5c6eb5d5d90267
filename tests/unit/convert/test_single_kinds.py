"""What a single file holds, told by names and a few shapes."""

import pytest

from zhcache.errors import UsageError
from zhcached.convert.single_header import Tensor
from zhcached.convert.single_kinds import CONV_IN, beside, size_of, tell

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
CLIP_XL, OPEN_CLIP_XL = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
REFINER = "conditioner.embedders.0.model."


def tensor(*shape):
    return Tensor(shape, (0, 8))


def model(*prefixes, channels=4, **more):
    named = {f"{prefix}x.weight": tensor(2) for prefix in (UNET, VAE, *prefixes)}
    return {CONV_IN: tensor(320, channels, 3, 3), **named, **more}


@pytest.mark.parametrize(
    ("prefixes", "channels", "title", "like"),
    [
        ((CLIP,), 4, "Stable Diffusion 1", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ((OPEN_CLIP,), 4, "Stable Diffusion 2", "stabilityai/stable-diffusion-2-1"),
        (
            (CLIP_XL, OPEN_CLIP_XL),
            4,
            "Stable Diffusion XL",
            "stabilityai/stable-diffusion-xl-base-1.0",
        ),
        (
            (REFINER,),
            4,
            "Stable Diffusion XL refiner",
            "stabilityai/stable-diffusion-xl-refiner-1.0",
        ),
        (
            (CLIP,),
            9,
            "Stable Diffusion 1 inpainting",
            "stable-diffusion-v1-5/stable-diffusion-inpainting",
        ),
        (
            (OPEN_CLIP,),
            9,
            "Stable Diffusion 2 inpainting",
            "stabilityai/stable-diffusion-2-inpainting",
        ),
        (
            (CLIP_XL, OPEN_CLIP_XL),
            9,
            "Stable Diffusion XL inpainting",
            "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        ),
    ],
)
def test_kind_is_told_by_text_encoders_and_channels(prefixes, channels, title, like):
    kind = tell(model(*prefixes, channels=channels), "a")
    assert (kind.title, kind.like) == (title, like)
    assert {piece.prefix for piece in kind.pieces} == {UNET, VAE, *prefixes}


@pytest.mark.parametrize(
    ("tensors", "words", "hint"),
    [
        ({"lora_unet_down_blocks_0.lora_down.weight": tensor(4)}, "a LoRA", "load_lora_weights"),
        ({"unet.up.lora_A.weight": tensor(4)}, "a LoRA", "load_lora_weights"),
        ({"lora_te_x.hada_w1_a": tensor(4)}, "a LoRA", "load_lora_weights"),
        ({"emb_params": tensor(4, 768)}, "an embedding", "load_textual_inversion"),
        (
            {"clip_l": tensor(4, 768), "clip_g": tensor(4, 1280)},
            "an embedding",
            "load_textual_inversion",
        ),
        (model(CLIP, **{"control_model.time_embed.0.weight": tensor(2)}), "a ControlNet", ""),
        ({"controlnet_cond_embedding.conv_in.weight": tensor(2)}, "a ControlNet", "prefetch"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": tensor(2)}, "Flux", "prefetch"),
        ({f"{UNET}double_blocks.0.img_attn.proj.weight": tensor(2)}, "Flux", "prefetch"),
        ({f"{UNET}joint_blocks.0.x_block.attn.proj.weight": tensor(2)}, "Diffusion 3", ""),
        (model(CLIP_XL, OPEN_CLIP_XL, edm_mean=tensor(4)), "Playground 2.5", ""),
        ({f"{VAE}encoder.conv_in.weight": tensor(2)}, "a VAE alone", "import the folder"),
        ({"decoder.conv_in.weight": tensor(2)}, "a VAE alone", "import the folder"),
        ({"down_blocks.0.resnets.0.norm1.weight": tensor(2)}, "diffusers' layout", "folder"),
        ({"blk.0.attn.weight": tensor(2)}, "its first tensor is 'blk.0.attn.weight'", ""),
        ({}, "something unknown", ""),
        ({f"{UNET}patch_embed.weight": tensor(2)}, "another architecture", ""),
        (model(CLIP, channels=8), "InstructPix2Pix", ""),
        (model(OPEN_CLIP, channels=5), "takes depth", ""),
        (model(OPEN_CLIP, channels=7), "upscaler", ""),
        (model(CLIP, channels=16), "takes 16 channels", ""),
        (model(), "no text encoder", ""),
        (model(CLIP_XL), "without all of its text encoders", ""),
        (model(REFINER, channels=9), "without all of its text encoders", ""),
        (model(CLIP, CLIP_XL, OPEN_CLIP_XL), "do not belong together", ""),
        (
            {k: v for k, v in model(CLIP).items() if not k.startswith(VAE)},
            "Stable Diffusion 1 without a VAE",
            "",
        ),
    ],
)
def test_what_is_no_whole_model_is_refused_by_its_name(tensors, words, hint):
    with pytest.raises(UsageError) as refused:
        tell(tensors, "some file")
    assert words in refused.value.message
    assert "'some file'" in refused.value.message
    assert hint in refused.value.hint


def test_a_hostile_name_is_shown_escaped():
    with pytest.raises(UsageError) as refused:
        tell({"\x1b[2J" + "x" * 500: tensor(1)}, "f")
    assert "\x1b" not in refused.value.message
    assert len(refused.value.message) < 400


def test_averaged_weights_and_schedules_are_nothing_odd():
    tensors = model(
        CLIP,
        **{
            "model_ema.diffusion_modelinput": tensor(2),
            "betas": tensor(10),
            "sqrt_one_minus_alphas_cumprod": tensor(10),
            "cond_stage_model.logit_scale": tensor(),
            "a.stranger": tensor(2),
        },
    )
    kind = tell(tensors, "f")
    assert beside(tensors, kind) == ["a.stranger"]


def test_only_stable_diffusion_2_leaves_its_prediction_open():
    assert "stable-diffusion-2-1" in tell(model(OPEN_CLIP), "f").doubt
    assert tell(model(CLIP), "f").doubt == ""


def test_bytes_of_a_component_are_those_of_its_keys():
    tensors = model(CLIP)
    kind = tell(tensors, "f")
    assert [size_of(tensors, piece) for piece in kind.pieces] == [16, 8, 8]
