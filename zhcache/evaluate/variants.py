"""What a variant does to the pictures: the same seeds in the source and in the variant.

Each pipeline is loaded and let go in turn, so that at most one is in memory. The initial noise is
the same up to rounding: torch draws normal numbers on the CPU in float32 and rounds them to the
dtype that is asked for.
"""

from __future__ import annotations

import inspect
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from zhcache.errors import UsageError
from zhcache.evaluate import paired
from zhcache.protocol.variants import Quality

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPTS = (
    "a photograph of a red bicycle leaning against a brick wall",
    "an ink painting of misty mountains with a small pavilion",
)
Note = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is drawn. ``steps`` and ``size`` (width, height) are the pipeline's own where None."""

    prompts: Sequence[str] = PROMPTS
    seeds: Sequence[int] = (0, 1, 2, 3)
    steps: int | None = None
    size: tuple[int, int] | None = None


@dataclass
class Drawn:
    """What one pipeline made, in the order of prompts, then of seeds.

    ``latents`` are those after the last step, None where the pipeline does not tell them.
    """

    images: list[Image] = field(default_factory=list["Image"])
    latents: list[torch.Tensor | None] = field(default_factory=list[torch.Tensor | None])
    seconds: list[float] = field(default_factory=list[float])


def draw(pipeline: Any, plan: Plan, note: Note = lambda _: None) -> Drawn:
    """Makes the images of ``plan`` with a loaded pipeline.

    Raises:
        UsageError: It makes no images from a prompt.
    """
    known = inspect.signature(pipeline.__call__).parameters
    if "prompt" not in known:
        raise UsageError(
            "{kind} takes no prompt, so its variants are not compared",
            kind=type(pipeline).__name__,
        )
    options: dict[str, Any] = {}
    if plan.steps is not None:
        options["num_inference_steps"] = plan.steps
    if plan.size is not None:
        options["width"], options["height"] = plan.size
    drawn = Drawn()
    pipeline.set_progress_bar_config(disable=True)
    total = len(plan.prompts) * len(plan.seeds)
    for number, (prompt, seed) in enumerate((p, s) for p in plan.prompts for s in plan.seeds):
        note(f"{number + 1}/{total}")
        last: list[torch.Tensor] = []
        if "callback_on_step_end" in known:
            options["callback_on_step_end"] = _keeping(last)
        generator = torch.Generator("cpu").manual_seed(seed)
        began = time.perf_counter()
        image = pipeline(prompt, generator=generator, **options).images[0]
        drawn.seconds.append(time.perf_counter() - began)
        drawn.images.append(image)
        drawn.latents.append(last[0] if last else None)
    return drawn


def hush() -> None:
    """Switches off the libraries' bars, one for each component and step, in this process."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()


def compare(source: Drawn, variant: Drawn) -> Quality:
    """Returns how far the variant's images and latents are from the source's, pair by pair.

    Raises:
        UsageError: They are not of one plan.
    """
    pairs = [
        (paired.pixels(a), paired.pixels(b))
        for a, b in zip(source.images, variant.images, strict=True)
    ]
    psnrs = [paired.psnr(a, b) for a, b in pairs]
    ssims = [paired.ssim(a, b) for a, b in pairs]
    cosines = [
        # NaN, in the latents or of nothing but zeros, is like nothing; medians know no NaN.
        _finite(paired.cosine(a, b)) or 0.0
        for a, b in zip(source.latents, variant.latents, strict=True)
        if a is not None and b is not None
    ]
    return Quality(
        pairs=len(pairs),
        # JSON knows no infinity: equal images have no ratio.
        psnr=_finite(statistics.median(psnrs)),
        psnr_least=_finite(min(psnrs)),
        ssim=statistics.median(ssims),
        ssim_least=min(ssims),
        latent_cosine=statistics.median(cosines) if cosines else None,
        latent_cosine_least=min(cosines, default=None),
        seconds=statistics.median(variant.seconds),
        seconds_source=statistics.median(source.seconds),
    )


def sheet(source: Drawn, variants: Mapping[str, Drawn], width: int = 256) -> Image:
    """Returns one picture: a row for each prompt and seed, a column for each pipeline.

    Args:
        source: What the source made.
        variants: What each variant made.
        width: Of one image in it, in pixels.
    """
    from PIL import Image, ImageDraw

    columns = {"source": source, **variants}
    height = round(width * source.images[0].height / source.images[0].width)
    head = 16
    whole = Image.new("RGB", (width * len(columns), head + height * len(source.images)), "white")
    pen = ImageDraw.Draw(whole)
    for column, (name, drawn) in enumerate(columns.items()):
        pen.text((column * width + 4, 2), name, fill="black")
        for row, image in enumerate(drawn.images):
            scaled = image.convert("RGB").resize((width, height))
            whole.paste(scaled, (column * width, head + row * height))
    return whole


def _keeping(last: list[torch.Tensor]) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    def keep(_: Any, __: int, ___: Any, told: dict[str, Any]) -> dict[str, Any]:
        last[:] = [told["latents"].detach().float().cpu().clone()]
        return told

    return keep


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
