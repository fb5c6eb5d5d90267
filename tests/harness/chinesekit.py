"""Conditions for tests: what a Chinese encoder would answer if it knew the base's own space.

Chinese texts stand for English ones by a table, so that a picture of one has to be the picture of
the other, bit for bit.
"""

from __future__ import annotations

import inspect
from typing import Any

from zhcache.chinese.conditions import conditions, foreign, wanted
from zhcache.chinese.families import family_of
from zhcache.chinese.texts import is_text, items, replaced

MEANS = {
    "一座红房子": "a red house",
    "山水画，水墨": "a landscape in ink",
    "模糊": "blurry and low quality",
    "": "",
}


def load(name: str, dtype: str = "float32") -> Any:
    """Returns the tiny pipeline of a family."""
    import torch
    from diffusers import DiffusionPipeline

    from harness import families

    made = DiffusionPipeline.from_pretrained(
        families.folder(name), dtype=getattr(torch, dtype), local_files_only=True
    )
    made.set_progress_bar_config(disable=True)
    return made


def states(pipeline: Any, text: str, *, pieces: int = 1) -> dict[str, Any]:
    """Returns a text's own states by argument, as a prompt worker has them: chunks first."""
    import torch

    takes = inspect.signature(pipeline.encode_prompt).parameters
    options = {
        "do_classifier_free_guidance": False, "device": "cpu", "num_images_per_prompt": 1,
    }  # fmt: skip
    with torch.no_grad():
        texts = {name: None for name in takes if is_text(name)} | {"prompt": text}
        made = pipeline.encode_prompt(
            **texts, **{name: value for name, value in options.items() if name in takes}
        )
    given = {name: made[place] for name, place in family_of(type(pipeline).__name__).embeds.items()}
    return {
        name: one[0] if name.startswith("pooled") else torch.cat([one] * pieces)
        for name, one in given.items()
    }


def told(pipeline: Any, arguments: dict[str, Any], *, kind: str = "adapter", pieces=None) -> Any:
    """Returns the conditions of a call's arguments, by the table ``MEANS``.

    ``pieces`` says of Chinese texts in how many chunks they come.
    """
    family = family_of(type(pipeline).__name__)
    texts = foreign(items(arguments), kind, family.negative)
    asked = wanted(texts)
    answers = [
        states(pipeline, MEANS.get(text, text), pieces=(pieces or {}).get(text, 1))
        for text in asked
    ]
    embeds = {name: [one[name] for one in answers] for name in family.embeds}
    return conditions(texts, asked, embeds)


def meant(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments with the English that the table has for their Chinese."""
    return replaced(arguments, MEANS)


def call(pipeline: Any, arguments: dict[str, Any]) -> Any:
    """Returns the pictures ``(n, height, width, 3) float32`` of one seed, after two steps."""
    import torch

    takes = inspect.signature(pipeline.__call__).parameters
    fixed = {
        "num_inference_steps": 2, "height": 64, "width": 64, "output_type": "np",
        "use_resolution_binning": False,
    }  # fmt: skip
    given = {name: value for name, value in fixed.items() if name in takes} | arguments
    return pipeline(generator=torch.Generator("cpu").manual_seed(7), **given).images
