"""Tiny real vision models with random weights, as published ones lie on the disk, and pictures.

Each model sees 32 by 32 pixels in patches of 8, and is built in well under a second.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from zhcache.cli.picture import encoded

SIDE = 32
PATCHES = 16
DIMENSIONS = 16
CHARACTERS = "一只小猫坐在红色的椅子上山水画天空下雨了中国花鸟鱼虫"

_PART = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_VISION = {**_PART, "image_size": SIDE, "patch_size": 8}


def build(kind: str, folder: Path, seed: int = 0) -> Path:
    """Writes the model of a kind, its preprocessor and its tokenizer into ``folder``."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor, tokenizer = MAKERS[kind]()
        with torch.no_grad():
            for parameter in model.parameters():
                # As they start, all pictures look alike to them.
                parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def publish(hub: Any, repo: str, folder: Path) -> None:
    """Has a hub serve what ``build`` made."""
    hub.add(repo, {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()})


def noise(seed: int, size: tuple[int, int] = (40, 32), like: float = 0.0) -> Image.Image:
    """Returns a picture of random blocks; ``like`` mixes that much of picture 0 into it."""
    rows = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(seed))
    base = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0))
    mixed = ((1 - like) * rows + like * base) * 255
    return Image.fromarray(mixed.byte().numpy()).resize(size, Image.Resampling.BICUBIC)


def drawn(
    folder: Path,
    prompts: list[str],
    seeds: tuple[int, ...] = (1, 2),
    *,
    off: float = 0.0,
    names: str = "pic",
) -> Path:
    """Fills a folder as ``zhcache run`` does; ``off`` blends each picture with another one."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (prompt, seed) in enumerate((p, s) for p in prompts for s in seeds):
        image = noise(100 + number)
        if off:
            image = Image.blend(image, noise(900 + number), off)
        said = {"prompt": prompt, "seed": str(seed)}
        (folder / f"{names}-{number}.png").write_bytes(encoded(image, said))
    return folder


def _clip() -> tuple[Any, Any, Any]:
    from transformers import CLIPConfig, CLIPModel

    from harness.families import _clip_tokenizer

    tokenizer = _clip_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**_PART, "vocab_size": len(tokenizer), "max_position_embeddings": 77, **ends}
    config = CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=DIMENSIONS)
    return CLIPModel(config), _cropped(), tokenizer


def _clip_vision() -> tuple[Any, Any, Any]:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(**_VISION, projection_dim=DIMENSIONS)
    return CLIPVisionModelWithProjection(config), _cropped(), None


def _chinese_clip() -> tuple[Any, Any, Any]:
    from transformers import ChineseCLIPConfig, ChineseCLIPModel
    from transformers.models.chinese_clip.image_processing_pil_chinese_clip import (
        ChineseCLIPImageProcessorPil,
    )

    tokenizer = _characters()
    text = {**_PART, "vocab_size": len(tokenizer), "pad_token_id": 0}
    config = ChineseCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=DIMENSIONS)
    square = {"height": SIDE, "width": SIDE}
    processor = ChineseCLIPImageProcessorPil(size=square, do_center_crop=False)
    return ChineseCLIPModel(config), processor, tokenizer


def _altclip() -> tuple[Any, Any, Any]:
    from transformers import AltCLIPConfig, AltCLIPModel

    tokenizer = _characters()
    text = {**_PART, "vocab_size": len(tokenizer), "project_dim": DIMENSIONS, "pad_token_id": 0}
    config = AltCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=DIMENSIONS)
    return AltCLIPModel(config), _cropped(), tokenizer


def _siglip() -> tuple[Any, Any, Any]:
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = _characters(model_max_length=24)
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {**_PART, "vocab_size": len(tokenizer), "max_position_embeddings": 24, **ends}
    config = SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=_VISION)
    processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return SiglipModel(config), processor, tokenizer


def _dinov2() -> tuple[Any, Any, Any]:
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(**_VISION, mlp_ratio=1)), _cropped(), None


def _cropped() -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=side)


def _characters(model_max_length: int = 64) -> Any:
    """A tokenizer with one token for each character that it knows, as BERT's Chinese one."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    named = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(CHARACTERS)]
    named += [chr(code) for code in range(0x20, 0x7F)]
    made = Tokenizer(models.WordLevel({t: n for n, t in enumerate(named)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=model_max_length, **marks
    )


MAKERS = {
    "clip": _clip,
    "clip_vision_model": _clip_vision,
    "chinese_clip": _chinese_clip,
    "altclip": _altclip,
    "siglip": _siglip,
    "dinov2": _dinov2,
}


def said(path: Path, prompts: dict[str, str]) -> Path:
    """Writes a file that says what pictures are to show."""
    path.write_text(json.dumps(prompts, ensure_ascii=False), encoding="utf-8")
    return path
