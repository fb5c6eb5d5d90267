"""``python -m scenes.training.card DIR``: measures a trained folder and writes its README.md.

Every figure of the card comes from this run or from the folder itself. Pictures of held-out
combinations are made with stock diffusers in float32 and read by `scenes.reader`.
"""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from scenes.captions import Caption, evaluation
from scenes.reader import Reading, read
from scenes.world import ATTRIBUTES, VOCABULARY, held_out, scenes

STEPS: Final = 20
GUIDANCE: Final = 4.0
_BATCH: Final = 12

_TEXT: Final = """\
---
license: apache-2.0
language: [en]
library_name: diffusers
pipeline_tag: text-to-image
---

# Scenes: a small Stable Diffusion that draws what its prompt says

A `StableDiffusionPipeline` of {parameters:,} parameters in float16, {total:,} bytes, trained from
scratch. It draws 64 by 64 pixels: one to three equal shapes of one colour at a place of a plain
background. It is here so that a prompt's way into a picture can be counted: `scenes.reader` tells
from the pixels which of the six attributes a picture really has.

| attribute | values | right |
| --- | --- | --- |
{attributes}
| all six, mean | {combinations:,} combinations | {mean:.3f} |

Measured on {pictures} pictures of English captions of combinations that training never showed,
{steps} steps, guidance {guidance}, seeds 0 to {last_seed}, by `python -m scenes.training.card`.
An attribute that the reader calls unclear counts as wrong.

## How it was made

`python -m scenes.training --out DIR --work DIR`, seed {seed}. Data: {drawings:,} drawings of
`scenes.world`, with English captions of `scenes.captions`; {kept} of the combinations, chosen by a
hash, are in none of them. First the autoencoder, {vae_steps:,} steps, and its decoder alone,
{decoder_steps:,}; then the text encoder learns to tell the six attributes, {text_steps} steps; then
it and the UNet together, {unet_steps:,} steps of {batch} pictures, a tenth without caption; the
weights are a moving average. Trained on {machine}, interrupted and resumed, the learning rate's
schedule begun anew: doing it again gives a model like this one and not the same bytes.

## Limits

It knows the words of `scenes.captions` and nothing else; other words are spelled in bytes that it
has never seen. It understands no Chinese: that is what adapters and translators are for. Prompts
have {length} tokens. There is no safety checker: it can draw nothing but these scenes.

## Files

| file | bytes | sha256 |
| --- | --- | --- |
{files}

Licence: Apache-2.0, as the project. No third party's data or weights are in it.
"""


def pictures(pipeline: Any, captions: Sequence[Caption]) -> Iterator[tuple[Caption, Reading]]:
    """Yields each caption with what is read off its picture; the n-th has seed n."""
    import torch

    for start in range(0, len(captions), _BATCH):
        some = captions[start : start + _BATCH]
        seeds = range(start, start + len(some))
        made = pipeline(
            [one.en for one in some],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        ).images
        yield from zip(some, map(read, made), strict=True)


def shares(found: Sequence[tuple[Caption, Reading]]) -> dict[str, float]:
    """For each attribute the share of pictures that have it as the caption says."""
    right = [reading.agreement(caption.scene) for caption, reading in found]
    return {name: sum(one[name] for one in right) / len(right) for name in ATTRIBUTES}


def files(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every file but the card, by path in the folder."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / "README.md"
    }


def told_files(card: str) -> dict[str, tuple[int, str]]:
    """What a card says of its files, as `files` has it."""
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| `")]
    return {path.strip("`"): (int(size.replace(",", "")), digest) for path, size, digest in rows}


def card(folder: Path, right: dict[str, float], *, measured: int, machine: str) -> str:
    """The card's text.

    Args:
        folder: The pipeline's.
        right: What `shares` found.
        measured: Pictures that it found it on.
        machine: What it was trained on, in words.
    """
    from scenes.training import __main__ as training
    from scenes.training import autoencoder, decoder, denoiser, language, vocabulary

    lie = files(folder)
    values = {name: ", ".join(map(str, values)) for name, values in VOCABULARY.items()}
    weights = [size for path, (size, _) in lie.items() if path.endswith(".safetensors")]
    trained = json.loads((folder / "training.json").read_text("utf-8"))
    return _TEXT.format(
        parameters=sum(weights) // 2,
        total=sum(size for size, _ in lie.values()),
        attributes="\n".join(f"| {name} | {values[name]} | {right[name]:.3f} |" for name in right),
        combinations=len(scenes()),
        mean=sum(right.values()) / len(right),
        pictures=measured,
        steps=STEPS,
        guidance=GUIDANCE,
        last_seed=measured - 1,
        seed=trained["seed"],
        drawings=training.DRAWINGS,
        kept=len(held_out()),
        vae_steps=autoencoder.STEPS,
        decoder_steps=decoder.STEPS,
        text_steps=language.STEPS,
        unet_steps=trained["steps"],
        batch=denoiser.BATCH,
        machine=machine,
        length=vocabulary.LENGTH,
        files="\n".join(
            f"| `{path}` | {size:,} | {digest} |" for path, (size, digest) in lie.items()
        ),
    )


def main() -> None:
    """Measures, says what it found, and writes the card."""
    parser = argparse.ArgumentParser(prog="python -m scenes.training.card", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--machine", default="two CPU cores, in bfloat16")
    options = parser.parse_args()

    import torch
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(
        options.folder, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    right = shares(list(pictures(pipeline, evaluation()[: options.pictures])))
    print(json.dumps(right | {"mean": sum(right.values()) / len(right)}), file=sys.stderr)
    text = card(options.folder, right, measured=options.pictures, machine=options.machine)
    (options.folder / "README.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
