"""Drawings and captions as training reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scenes.captions import caption
from scenes.world import ATTRIBUTES, SIDE, VOCABULARY, Scene, draw, seen


@dataclass
class Drawings:
    """``images``: uint8, (n, 3, side, side); ``scenes``: what each of them shows."""

    images: torch.Tensor
    scenes: list[Scene]


def drawings(count: int, seed: int) -> Drawings:
    """Draws scenes that training may show, each as often as chance has it."""
    rng = np.random.default_rng(seed)
    known = seen()
    chosen = [known[int(rng.integers(len(known)))] for _ in range(count)]
    images = torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    for number, scene in enumerate(chosen):
        images[number] = torch.from_numpy(np.array(draw(scene, rng))).permute(2, 0, 1)
    return Drawings(images, chosen)


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Returns uint8 images as float32 from -1 to 1, in the layout that convolutions like."""
    return images.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def captions(scenes: Sequence[Scene], rng: np.random.Generator, dropped: float = 0.0) -> list[str]:
    """Returns an English caption of each scene; a share of them is empty, for guidance."""
    return ["" if rng.random() < dropped else caption(scene, rng).en for scene in scenes]


def classes(scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """Returns, for each attribute, the number of each scene's value."""
    return {
        name: torch.tensor([VOCABULARY[name].index(getattr(s, name)) for s in scenes])
        for name in ATTRIBUTES
    }


def ids(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Returns token numbers, padded as the pipeline pads: (n, length)."""
    return tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
