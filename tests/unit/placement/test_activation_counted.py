"""What calls are reckoned to take, against tensors counted in diffusers' own modules."""

import json

import pytest

from zhcache.placement import activation
from zhcache.placement.activation import Size, known, with_margin
from zhcache.placement.families import FAMILIES

pytestmark = pytest.mark.slow

KEEPS = 1.9
"""No more is reckoned, for what was counted, than so many times as much."""


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def made(torch, kind, **config):
    import diffusers

    with torch.device("meta"):
        return getattr(diffusers, kind)(**config).eval().to(torch.bfloat16)


def t(torch, *shape):
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta")


def ints(torch, *shape):
    return torch.empty(*shape, dtype=torch.long, device="meta")


SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def unet(torch, size):
    model = made(torch, "UNet2DConditionModel", sample_size=64, cross_attention_dim=768)
    args = (t(torch, 2, 4, size // 8, size // 8), 1, t(torch, 2, 77, 768))
    return model, lambda: model(*args, return_dict=False)


def sdxl(torch, size):
    model = made(torch, "UNet2DConditionModel", **SDXL)
    more = {"text_embeds": t(torch, 2, 1280), "time_ids": t(torch, 2, 6)}
    args = (t(torch, 2, 4, size // 8, size // 8), 1, t(torch, 2, 77, 2048))
    return model, lambda: model(*args, added_cond_kwargs=more, return_dict=False)


def flux(torch, size):
    kind, tokens = "FluxTransformer2DModel", (size // 16) ** 2
    model = made(torch, kind, num_layers=1, num_single_layers=1, guidance_embeds=True)
    args = (t(torch, 1, tokens, 64), t(torch, 1, 512, 4096), t(torch, 1, 768), t(torch, 1))
    ids = (t(torch, tokens, 3), t(torch, 512, 3), t(torch, 1))
    return model, lambda: model(*args, *ids, return_dict=False)


def flux2(torch, size):
    tokens = (size // 16) ** 2
    model = made(torch, "Flux2Transformer2DModel", num_layers=1, num_single_layers=1)
    args = {
        "hidden_states": t(torch, 1, tokens, 128),
        "encoder_hidden_states": t(torch, 1, 512, 15360),
        "timestep": t(torch, 1),
        "img_ids": t(torch, tokens, 4),
        "txt_ids": t(torch, 512, 4),
        "guidance": t(torch, 1),
    }
    model.register_to_config(guidance_embeds=True)
    return model, lambda: model(**args, return_dict=False)


def qwen(torch, size):
    side = size // 16
    model = made(torch, "QwenImageTransformer2DModel", num_layers=2)
    args = {
        "hidden_states": t(torch, 1, side * side, 64),
        "encoder_hidden_states": t(torch, 1, 512, 3584),
        "encoder_hidden_states_mask": None,
        "timestep": t(torch, 1),
        "img_shapes": [(1, side, side)],
    }
    return model, lambda: model(**args, return_dict=False)


def sd3(torch, size):
    model = made(
        torch, "SD3Transformer2DModel", sample_size=128, in_channels=16, num_layers=2,
        attention_head_dim=64, num_attention_heads=38, caption_projection_dim=2432,
        joint_attention_dim=4096, pooled_projection_dim=2048, out_channels=16,
        pos_embed_max_size=192, qk_norm="rms_norm",
    )  # fmt: skip
    args = (t(torch, 2, 16, size // 8, size // 8), t(torch, 2, 333, 4096), t(torch, 2, 2048))
    return model, lambda: model(*args, ints(torch, 2), return_dict=False)


def pixart(torch, size):
    model = made(
        torch, "PixArtTransformer2DModel", sample_size=128, num_layers=2, in_channels=4,
        out_channels=8, caption_channels=4096, use_additional_conditions=False,
    )  # fmt: skip
    args = (t(torch, 2, 4, size // 8, size // 8), t(torch, 2, 300, 4096), ints(torch, 2))
    return model, lambda: model(*args, return_dict=False)


def hunyuan(torch, size):
    model = made(
        torch, "HunyuanDiT2DModel", sample_size=128, patch_size=2, num_layers=4,
        num_attention_heads=16, attention_head_dim=88, in_channels=4, learn_sigma=True,
        cross_attention_dim=1024, cross_attention_dim_t5=2048, mlp_ratio=4.3637, hidden_size=1408,
        text_len=77, text_len_t5=256, norm_type="ada_norm_continous",
        activation_fn="gelu-approximate",
    )  # fmt: skip
    tokens = (size // 16) ** 2
    args = [t(torch, 2, 4, size // 8, size // 8), t(torch, 2)]
    for shape in ((77, 1024), (77,), (256, 2048), (256,), (6,)):
        args.append(t(torch, 2, *shape))
    turned = (t(torch, tokens, 88), t(torch, tokens, 88))
    call = {"image_rotary_emb": turned, "return_dict": False}
    return model, lambda: model(*args, ints(torch, 2), **call)


def zimage(torch, size):
    model = made(torch, "ZImageTransformer2DModel", n_layers=2, n_refiner_layers=1)
    args = ([t(torch, 16, 1, size // 8, size // 8)] * 2, t(torch, 2), [t(torch, 512, 2560)] * 2)
    return model, lambda: model(*args, return_dict=False)


def cogview(torch, size):
    model = made(torch, "CogView4Transformer2DModel", num_layers=2)
    args = (t(torch, 2, 16, size // 8, size // 8), t(torch, 2, 1024, 4096), ints(torch, 2))
    sizes = [t(torch, 2, 2)] * 3
    return model, lambda: model(*args, *sizes, return_dict=False)


def sana(torch, size):
    model = made(torch, "SanaTransformer2DModel", num_layers=2)
    text = t(torch, 2, 300, model.config.caption_channels)
    args = (t(torch, 2, 32, size // 32, size // 32), text, ints(torch, 2))
    return model, lambda: model(*args, return_dict=False)


def wan(torch, size):
    wide, high = size
    model = made(torch, "WanTransformer3DModel", num_layers=2)
    args = (t(torch, 1, 16, 21, high // 8, wide // 8), ints(torch, 1), t(torch, 1, 512, 4096))
    return model, lambda: model(*args, return_dict=False)


def ltx(torch, size):
    wide, high = (side // 32 for side in size)
    model = made(torch, "LTXVideoTransformer3DModel", num_layers=2)
    call = {"num_frames": 21, "height": high, "width": wide}
    call |= {"rope_interpolation_scale": (1, 32, 32), "return_dict": False}
    args = (t(torch, 2, 21 * high * wide, 128), t(torch, 2, 128, 4096), ints(torch, 2))
    return model, lambda: model(*args, ints(torch, 2, 128), **call)


def said(model):
    """Returns what is known of a module, by its configuration as a file has it."""
    return known(json.loads(json.dumps(dict(model.config), default=str)))


@pytest.mark.parametrize("make", [
    (unet, 512), (unet, 1024), (sdxl, 1024), (flux, 512), (flux, 1024), (flux, 1536),
    (flux2, 1024), (flux2, 1536), (qwen, 1024), (qwen, 1536), (sd3, 1024), (sd3, 1280),
    (pixart, 1024), (pixart, 1536), (hunyuan, 1024), (zimage, 1024), (zimage, 1536),
    (cogview, 1024), (sana, 1024), (wan, (832, 480)), (wan, (1280, 720)), (ltx, (704, 512)),
], ids=lambda made: f"{made[0].__name__}-{made[1]}")  # fmt: skip
def test_a_step_takes_what_is_reckoned(torch, make):
    from harness.counted import peak

    build, side = make
    model, call = build(torch, side)
    kind = type(model).__name__
    assert kind in FAMILIES
    size = Size(side, side) if isinstance(side, int) else Size(*side)
    vae = {"encoder_block_out_channels": [1] * 6} if build is sana else {}
    config = said(model)
    told = activation.needs(config, vae, kind=kind, width=2, size=size).step
    counted = peak(model, call)
    assert counted <= with_margin(told) <= KEEPS * counted


SD_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "latent_channels": 4,
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def decoders():
    """Yields each family's autoencoder, what it decodes, and that as pixels."""
    size = Size(512, 512)
    yield "FLUX.1", "AutoencoderKL", SD_VAE, (1, 4, 64, 64), size
    yield "U-Net", "AutoencoderKL", SD_VAE | {"force_upcast": False}, (1, 4, 64, 64), size
    yield "Qwen-Image", "AutoencoderKLQwenImage", {}, (1, 16, 1, 64, 64), size
    yield "Wan", "AutoencoderKLWan", {}, (1, 16, 21, 32, 32), Size(256, 256)
    yield "LTX-Video", "AutoencoderKLLTXVideo", {}, (1, 128, 21, 8, 8), Size(256, 256)
    yield "Sana", "AutoencoderDC", {}, (1, 32, 16, 16), size


@pytest.mark.parametrize("number", range(6))
def test_decoding_takes_what_is_reckoned(torch, number):
    from harness.counted import peak

    name, kind, config, shape, size = list(decoders())[number]
    model = made(torch, kind, **config)
    latents = t(torch, *shape)
    counted = peak(model, lambda: model.decode(latents, return_dict=False))
    family = next(kind for kind, one in FAMILIES.items() if one.name == name)
    told = activation.needs({}, said(model), kind=family, width=2, size=size).decode
    assert counted <= with_margin(told) <= KEEPS * counted


@pytest.mark.parametrize("name", ["t5", "clip", "qwen"])
def test_reading_a_prompt_takes_what_is_reckoned(torch, name):
    import transformers as tf

    from harness.counted import peak

    kinds = {
        "t5": (tf.T5EncoderModel, tf.T5Config(d_model=4096, d_kv=64, d_ff=10240, num_heads=64,
            num_layers=2, feed_forward_proj="gated-gelu"), 512),
        "clip": (tf.CLIPTextModel, tf.CLIPTextConfig(hidden_size=768, intermediate_size=3072), 77),
        "qwen": (tf.Qwen3Model, tf.Qwen3Config(hidden_size=2560, intermediate_size=9728,
            num_hidden_layers=12, num_key_value_heads=8, head_dim=128), 512),
    }  # fmt: skip
    kind, config, tokens = kinds[name]
    with torch.device("meta"):
        model = kind(config).eval().to(torch.bfloat16)
    counted = peak(model, lambda: model(ints(torch, 1, tokens), output_hidden_states=True))
    family = "UNet2DConditionModel" if name == "clip" else "FluxTransformer2DModel"
    told = activation.needs({}, {}, [known(config.to_dict())], kind=family, width=2).encode
    assert counted <= with_margin(told) <= 3 * counted


def test_the_families_with_a_plan_are_those_of_diffusers(torch):
    import diffusers

    kinds = [name for name in dir(diffusers) if "Transformer" in name and "Model" in name]
    planned = {name for name in kinds if getattr(getattr(diffusers, name), "_cp_plan", None)}
    assert planned == {name for name, one in FAMILIES.items() if one.has_plan}
