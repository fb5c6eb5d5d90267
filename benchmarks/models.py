"""Full-size pipelines with random weights, from public configurations.

Nothing is downloaded. The shapes are those of Stable Diffusion 1.5's published configuration files;
the tokenizer has CLIP's size and form and invented merges, so that reading it takes as long.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

VOCABULARY = 49_408
SHARD_BYTES = 2 * 2**30
_STAGES = (320, 640, 1280, 1280)


def build_sd15(folder: Path, dtype: str = "float16") -> Path:
    """Makes a Stable Diffusion 1.5 of random weights; returns its folder.

    Args:
        folder: Where it is to lie; one that is there is taken as it is.
        dtype: ``float16`` (2.0 GiB) or ``float32`` (4.0 GiB).
    """
    if (folder / "model_index.json").exists():
        return folder
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        unet = UNet(
            sample_size=64,
            block_out_channels=_STAGES,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
        text = CLIPTextModel(_text_config(CLIPTextConfig))
    finally:
        torch.set_default_dtype(torch.float32)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write_vocabulary(partial / "vocabulary")
    StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(partial / "vocabulary", model_max_length=77),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            skip_prk_steps=True,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(partial)
    shutil.rmtree(partial / "vocabulary")
    partial.rename(folder)
    return folder


def build_flux(folder: Path, layers: int = 5, single_layers: int = 10) -> Path:
    """Makes a FLUX of FLUX.1's width and fewer layers, sharded, of random float32 weights.

    Five double and ten single layers are 11.6 GiB. Text encoders and VAE are tiny. Written shard by
    shard: building the model would take its size in memory.
    """
    if (folder / "model_index.json").exists():
        return folder
    import torch
    from diffusers import FluxTransformer2DModel

    from harness import families

    config = {"num_layers": layers, "num_single_layers": single_layers, "guidance_embeds": False}
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(families.folder("flux"), partial)
    shutil.rmtree(partial / "transformer")
    model.save_config(partial / "transformer")
    _write_shards(partial / "transformer", {k: v.shape for k, v in model.state_dict().items()})
    partial.rename(folder)
    return folder


def _write_shards(folder: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    import torch
    from safetensors.torch import save_file

    shards: list[dict[str, Sequence[int]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        if size and size + 4 * math.prod(shape) > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += 4 * math.prod(shape)
    weight_map: dict[str, str] = {}
    generator = torch.Generator().manual_seed(0)
    for number, shard in enumerate(shards, 1):
        file = f"diffusion_pytorch_model-{number:05}-of-{len(shards):05}.safetensors"
        made = {name: torch.randn(*s, generator=generator) * 0.02 for name, s in shard.items()}
        save_file(made, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {
        "metadata": {"total_size": sum(4 * math.prod(shape) for shape in shapes.values())},
        "weight_map": weight_map,
    }
    name = "diffusion_pytorch_model.safetensors.index.json"
    (folder / name).write_text(json.dumps(index, indent=1))


def _text_config(config: type) -> object:
    return config(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=VOCABULARY - 1,
    )


def _write_vocabulary(folder: Path) -> None:
    """Writes a byte-pair vocabulary of CLIP's size; the merges pair letters in a fixed order."""
    letters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + i) for i in range(256 - len(letters))]
    tokens = letters + [letter + "</w>" for letter in letters]
    seen, merges = set(tokens), []
    for shift in range(1, 512):
        for at, left in enumerate(tokens[:512]):
            right = tokens[(at + shift) % 512]
            if len(tokens) == VOCABULARY - 2:
                break
            if not left.endswith("</w>") and left + right not in seen:
                seen.add(left + right)
                tokens.append(left + right)
                merges.append(f"{left} {right}")
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    numbered = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
