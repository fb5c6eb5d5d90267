"""A tiny real Stable Diffusion pipeline with random weights, for the hub to serve.

Everything about it is as published pipelines are, the size of its weights aside: stock
``DiffusionPipeline.from_pretrained`` loads it. The same recipe and library versions give the same
bytes. ``python -m demohub.pipeline DIR`` builds one. Needs torch and diffusers.
"""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false
# diffusers exports lazily and its annotations of tuples are narrower than what it takes.

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from demohub import vocabulary

RECIPE: Final = 2
"""Version of what ``build`` makes; a folder made by another one is built anew."""

_SEED: Final = 20_260_101
_TOKEN_LIMIT: Final = 77
_CARD: Final = f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# A tiny Stable Diffusion

Random weights, 64 by 64 pixels: it shows that a pipeline arrives and runs, not what one can draw.

Made by `demohub.pipeline`, recipe {RECIPE}.
"""


def build(target: Path) -> Path:
    """Makes the pipeline's folder, unless one of this recipe is there.

    It is built beside the target and renamed into place, so that other processes see it whole or
    not at all.

    Returns:
        The target.
    """
    if is_built(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        made = scratch / "made"
        _write(made)
        if target.exists() and not is_built(target):
            target.rename(scratch / "outdated")
        # Another process may have been faster; its bytes are the same.
        with suppress(OSError):
            made.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not is_built(target):
        raise OSError(f"{target} could not be put in place")
    return target


def shared_folder(parent: Path) -> Path:
    """Where one user keeps this recipe's pipeline between runs, below a folder such as /tmp."""
    return parent / f"demohub-{os.getuid()}" / f"pipeline-{RECIPE}"


def is_built(target: Path) -> bool:
    """Whether the folder holds a pipeline of this recipe."""
    card = target / "README.md"
    return card.is_file() and card.read_text(encoding="utf-8") == _CARD


def _write(folder: Path) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        components = {
            "unet": _unet(),
            "vae": _vae(),
            "text_encoder": _text_encoder(),
        }
    pipeline: Any = StableDiffusionPipeline(
        **components,
        tokenizer=_tokenizer(),
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    publish_keys(folder / "text_encoder" / "model.safetensors")
    _publish_tokenizer(folder / "tokenizer")
    (folder / "README.md").write_text(_CARD, encoding="utf-8")


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    ).eval()


def _vae() -> Any:
    from diffusers import AutoencoderKL

    # Four levels make the factor of 8 between latent and pixel that Stable Diffusion has.
    return AutoencoderKL(
        sample_size=64,
        block_out_channels=(16, 32, 32, 32),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
    ).eval()


def _text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    tokens = vocabulary.tokens()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=32,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=_TOKEN_LIMIT,
            bos_token_id=tokens[vocabulary.START],
            eos_token_id=tokens[vocabulary.END],
            pad_token_id=tokens[vocabulary.END],
        )
    ).eval()


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory(prefix="demohub-") as scratch:
        _write_vocabulary(Path(scratch))
        return CLIPTokenizer.from_pretrained(scratch, model_max_length=_TOKEN_LIMIT)


def _write_vocabulary(folder: Path) -> None:
    words = json.dumps(vocabulary.tokens(), ensure_ascii=False)
    (folder / "vocab.json").write_text(words, encoding="utf-8")
    pairs = "\n".join(f"{first} {second}" for first, second in vocabulary.merges())
    (folder / "merges.txt").write_text(f"#version: 0.2\n{pairs}\n", encoding="utf-8")


def _scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _publish_tokenizer(folder: Path) -> None:
    """Makes the tokenizer's folder as published ones are.

    transformers 5 leaves out the two vocabulary files that readers before it need, and writes how
    it came to its own files, which differs with the environment.
    """
    _write_vocabulary(folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    for trace in ("is_local", "local_files_only"):
        settings.pop(trace, None)
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def publish_keys(weights: Path) -> None:
    """Gives the text encoder's tensors the names published pipelines have.

    transformers 5 saves them without ``text_model.``; transformers 4 would then load none of them
    and only warn.
    """
    from safetensors.torch import load_file, save_file

    tensors = {
        name if name.startswith("text_model.") else f"text_model.{name}": tensor.clone()
        for name, tensor in load_file(weights).items()
    }
    save_file(tensors, weights, metadata={"format": "pt"})


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
