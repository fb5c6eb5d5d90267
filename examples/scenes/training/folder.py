"""The pipeline's folder, as published pipelines are."""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from demohub.pipeline import publish_keys
from scenes.captions import vocabulary
from scenes.training.denoiser import scheduler
from scenes.training.vocabulary import tokenizer
from scenes.training.vocabulary import write as write_vocabulary

CARD = "README.md"


def write(target: Path, *, vae: Any, unet: Any, text: Any, steps: int, seed: int) -> None:
    """Writes the pipeline in float16 to ``target``, in place of what is there.

    It is built beside and renamed into place; a card that is there is kept.
    """
    from diffusers import StableDiffusionPipeline

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        made = Path(scratch) / "made"
        words = tokenizer(vocabulary(), Path(scratch) / "words")
        parts = {"vae": vae, "unet": unet, "text_encoder": text}
        half = {name: copy.deepcopy(part).cpu().to(torch.float16) for name, part in parts.items()}
        for part in half.values():
            part.to(memory_format=torch.contiguous_format)
        pipeline: Any = StableDiffusionPipeline(
            **half,
            tokenizer=words,
            scheduler=scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(made, safe_serialization=True)
        publish_keys(made / "text_encoder" / "model.safetensors")
        _tidy_tokenizer(made / "tokenizer")
        _forget_origin(made)
        tidy_text_encoder(made / "text_encoder")
        told = {"seed": seed, "steps": steps}
        (made / "training.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
        if (target / CARD).exists():
            shutil.copyfile(target / CARD, made / CARD)
        if target.exists():
            target.rename(Path(scratch) / "before")
        made.rename(target)


def tidy_text_encoder(folder: Path) -> None:
    """Lets the text encoder be read in float32 where nobody asks for a precision.

    diffusers reads its own parts so, transformers 5 goes by the configuration: of a folder in
    float16 the parts would not fit each other.
    """
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tidy_tokenizer(folder: Path) -> None:
    """Adds the two files that readers before transformers 5 need; drops traces of where it lay."""
    write_vocabulary(vocabulary(), folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    for trace in ("is_local", "local_files_only"):
        settings.pop(trace, None)
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _forget_origin(folder: Path) -> None:
    """Drops from all configs where a part was read from."""
    for config in folder.glob("*/config.json"):
        settings = json.loads(config.read_text(encoding="utf-8"))
        if settings.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
