"""Tiny pipelines of several families, with random weights, as published ones lie on the disk.

Each is built once for each machine, user and recipe, in a temporary folder, and renamed into place
whole. Sizes are the smallest that a family's code takes.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

RECIPE = 2
SEED = 20_260_202
HIDDEN = 32


def folder(name: str) -> Path:
    """Returns the folder of family ``name``, built if it is not there."""
    target = Path(tempfile.gettempdir()) / f"demohub-{os.getuid()}" / f"family-{RECIPE}-{name}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _build(name, scratch / "made")
        # Another process may have been faster; its bytes are the same.
        with suppress(OSError):
            (scratch / "made").rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _build(name: str, target: Path) -> None:
    import torch

    make, dtype = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipeline = make()
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                _vary(part)
                part.to(getattr(torch, dtype)).eval()
    pipeline.save_pretrained(target)


def _vary(module: Any) -> None:
    """Has no parameter left at one value, as classes start some: a lost one would not be seen."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.02)


# --- parts --------------------------------------------------------------------------------------


def _clip_tokenizer() -> Any:
    from demohub import pipeline

    return pipeline._tokenizer()


def _clip(with_projection: bool = False, **changes: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from demohub import vocabulary

    tokens = vocabulary.tokens()
    known = {
        "vocab_size": len(tokens),
        "hidden_size": HIDDEN,
        "intermediate_size": 37,
        "projection_dim": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": tokens[vocabulary.START],
        "eos_token_id": tokens[vocabulary.END],
        "pad_token_id": tokens[vocabulary.END],
    }
    config = CLIPTextConfig(**{**known, **changes})
    return (CLIPTextModelWithProjection if with_projection else CLIPTextModel)(config)


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters += [(chr(code), -3.0) for code in range(0x61, 0x7B)]
    return T5Tokenizer(vocab=letters, extra_ids=2, model_max_length=64)


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=64,
            d_model=HIDDEN,
            d_kv=8,
            d_ff=37,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def _qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    from demohub import vocabulary

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {token: number for number, token in enumerate(vocabulary.byte_characters().values())}
    vocab |= {mark: len(vocab) + number for number, mark in enumerate(marks)}
    made = Qwen2Tokenizer(vocab=vocab, merges=[])
    made.add_special_tokens({"additional_special_tokens": marks[1:]})
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    return made


def _gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    marks += [f"<0x{code:02X}>" for code in range(256)]
    letters = ["▁", *(chr(code) for code in range(0x61, 0x7B))]
    vocab = {token: number for number, token in enumerate([*marks, *letters])}
    return GemmaTokenizer(vocab=vocab, merges=[], padding_side="right")


def _vae(latent_channels: int = 4, **changes: Any) -> Any:
    from diffusers import AutoencoderKL

    known = {
        "sample_size": 64,
        "block_out_channels": (8, 16, 16, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": latent_channels,
        "layers_per_block": 1,
    }
    return AutoencoderKL(**{**known, **changes})


def _flow_vae(latent_channels: int = 4) -> Any:
    return _vae(
        latent_channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )


def _flow(kind: Any, **parts: Any) -> Any:
    """Returns a pipeline that flows: these have their scheduler in common."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return kind(**parts, scheduler=FlowMatchEulerDiscreteScheduler())


_SMALL_TEXT = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


# --- families -----------------------------------------------------------------------------------


def _sd15() -> Any:
    from diffusers import DiffusionPipeline

    from demohub import pipeline

    return DiffusionPipeline.from_pretrained(
        pipeline.build(pipeline.shared_folder(Path(tempfile.gettempdir())))
    )


def _sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + HIDDEN,
        cross_attention_dim=2 * HIDDEN,
    )
    return StableDiffusionXLPipeline(
        unet=unet,
        vae=_vae(),
        text_encoder=_clip(hidden_act="gelu"),
        text_encoder_2=_clip(with_projection=True),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
    )


def _sd3() -> Any:
    from diffusers import (
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=HIDDEN,
        joint_attention_dim=HIDDEN,
        pooled_projection_dim=2 * HIDDEN,
    )
    return _flow(
        StableDiffusion3Pipeline,
        transformer=transformer,
        vae=_flow_vae(),
        text_encoder=_clip(with_projection=True, hidden_size=16, projection_dim=HIDDEN),
        text_encoder_2=_clip(with_projection=True, hidden_size=16, projection_dim=HIDDEN),
        text_encoder_3=_t5(),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        tokenizer_3=_t5_tokenizer(),
    )


def _flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=HIDDEN,
        pooled_projection_dim=HIDDEN,
        axes_dims_rope=(4, 4, 8),
    )
    return _flow(
        FluxPipeline,
        transformer=transformer,
        vae=_flow_vae(1),
        text_encoder=_clip(),
        text_encoder_2=_t5(),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_t5_tokenizer(),
    )


def _pixart() -> Any:
    from diffusers import DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=HIDDEN,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=24,
        attention_bias=True,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    return PixArtSigmaPipeline(
        transformer=transformer,
        vae=_vae(),
        text_encoder=_t5(),
        tokenizer=_t5_tokenizer(),
        scheduler=DDIMScheduler(),
    )


def _lumina() -> Any:
    from diffusers import (
        Lumina2Pipeline,
        Lumina2Transformer2DModel,
    )
    from transformers import Gemma2Config, Gemma2Model

    transformer = Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=2,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        ffn_dim_multiplier=None,
        norm_eps=1e-5,
        scaling_factor=1.0,
        axes_dim_rope=[4, 2, 2],
        cap_feat_dim=HIDDEN,
    )
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=300,
            hidden_size=HIDDEN,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
        )
    )
    return _flow(
        Lumina2Pipeline,
        transformer=transformer,
        vae=_flow_vae(),
        text_encoder=encoder,
        tokenizer=_gemma_tokenizer(),
    )


def _z_image() -> Any:
    from diffusers import (
        ZImagePipeline,
        ZImageTransformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3Model

    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=HIDDEN,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        qk_norm=True,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    encoder = Qwen3Model(Qwen3Config(**_SMALL_TEXT, head_dim=8))
    return _flow(
        ZImagePipeline,
        transformer=transformer,
        vae=_flow_vae(),
        text_encoder=encoder,
        tokenizer=_qwen_tokenizer(),
    )


def _qwen_image() -> Any:
    from diffusers import (
        AutoencoderKLQwenImage,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                **_SMALL_TEXT,
                "rope_scaling": {
                    "mrope_section": [1, 1, 2], "rope_type": "default", "type": "default",
                },
                "rope_theta": 1_000_000.0,
            },
            vision_config={
                "depth": 2,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
            },
            hidden_size=16,
            vocab_size=300,
            tie_word_embeddings=True,
        )
    )  # fmt: skip
    return _flow(
        QwenImagePipeline,
        transformer=transformer,
        vae=vae,
        text_encoder=encoder,
        tokenizer=_qwen_tokenizer(),
    )


FAMILIES: dict[str, tuple[Callable[[], Any], str]] = {
    "sd15": (_sd15, "float32"),
    "sdxl": (_sdxl, "float16"),
    "sd3": (_sd3, "float16"),
    "flux": (_flux, "bfloat16"),
    "pixart": (_pixart, "float32"),
    "lumina": (_lumina, "bfloat16"),
    "z-image": (_z_image, "bfloat16"),
    "qwen-image": (_qwen_image, "bfloat16"),
}
"""How each is made, and the dtype it is published in."""


def draw(pipeline: Any) -> Any:
    """Returns the picture ``(height, width, 3) float32`` of one seed, after two steps."""
    import torch

    if hasattr(pipeline, "set_progress_bar_config"):
        pipeline.set_progress_bar_config(disable=True)
    # PixArt draws in a few fixed sizes otherwise, all of them large.
    fixed = {"use_resolution_binning": False}
    takes = inspect.signature(pipeline.__call__).parameters
    made = pipeline(
        "a red house",
        num_inference_steps=2,
        height=64,
        width=64,
        generator=torch.Generator("cpu").manual_seed(7),
        output_type="np",
        **{name: value for name, value in fixed.items() if name in takes},
    )
    return made.images[0]


def image_of_stock(folder: Path, prompt: str) -> Any:
    """Returns the PIL image that diffusers alone makes of a seed, in fp32 and two steps."""
    import torch
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    seed = torch.Generator("cpu").manual_seed(7)
    return pipeline(prompt, num_inference_steps=2, generator=seed).images[0]
