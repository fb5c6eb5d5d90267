"""Parallel captions, a small adapter on the disk, and trainings for tests."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

_COLOURS = {"red": "红色", "blue": "蓝色", "green": "绿色", "gray": "灰色"}
_SHAPES = {"cat": "猫", "dog": "狗", "house": "房子", "star": "星星"}
_PLACES = {"left": "左边", "right": "右边", "top": "上方"}
_FORMS = (("a {c} {s} {p}", "{p}的{c}{s}"), ("{p}: {s}, {c}", "{p}，{s}，{c}"))


def captions() -> list[tuple[str, str]]:
    """Returns 96 English captions with their Chinese, in an order that repeats."""
    found = [
        tuple(form.format(c=words[0][n], s=words[1][n], p=words[2][n]) for n, form in enumerate(f))
        for f in _FORMS
        for words in itertools.product(_COLOURS.items(), _SHAPES.items(), _PLACES.items())
    ]
    random.Random(5).shuffle(found)
    return found  # type: ignore[return-value]


def pairs_file(path: Path, pairs: list[tuple[str, str]] | None = None) -> Path:
    """Writes a file of pairs."""
    lines = [json.dumps({"en": en, "zh": zh}, ensure_ascii=False) for en, zh in pairs or captions()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def about(**changes: Any) -> Any:
    """Returns a description of a small adapter for three kinds of arguments."""
    from zhcache.chinese.adapter import format as described

    known = {
        "name": "adapters/small",
        "base": described.Base(
            repo="demo/tiny", commit="a" * 40, class_name="SomePipeline", text_encoders=["b" * 64]
        ),
        "arguments": {
            "prompt_embeds": described.Argument(length=7, dim=12),
            "pooled_prompt_embeds": described.Argument(length=1, dim=9, kind="pooled"),
            "prompt_attention_mask": described.Argument(length=7, dim=1, kind="mask"),
        },
        "encoder": described.Encoder(max_length=16),
        "network": described.Network(layers=1, heads=2, width=32),
        "trained_on": described.TrainedOn(pairs=3, sha256="c" * 64),
        "quality": described.Quality(heldout_error=0.1, retrieval=0.9, pairs=3),
        "simplified": True,
        "zhcache": "0",
    }
    return described.Described(**{**known, **changes})


def small_adapter(folder: Path, **changes: Any) -> Path:
    """Writes an adapter of random weights, as ``zhcache adapter train`` leaves them."""
    import torch

    from zhcache.chinese.adapter import network, result, student

    described = about(**changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        reader = student.new_reader(["红色的猫，左边。"] * 2, 32, 1)
        resampler = network.Resampler(described.arguments, described.network, 32)
        for parameter in resampler.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    whole = network.Student(reader.model, resampler)
    result.write_weights(folder, whole, reader, is_frozen=False)
    result.write_description(folder, described, "zhcache adapter train ...")
    return folder
