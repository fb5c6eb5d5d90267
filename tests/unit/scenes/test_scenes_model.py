"""The model that comes with the project: its files, its card, and that it draws what it is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import scenes
from scenes.training import card

MODEL = Path(scenes.__file__).parent / "model"

_DRAW = """
import json, sys, warnings
warnings.simplefilter("error")
warnings.simplefilter("ignore", DeprecationWarning)
warnings.simplefilter("ignore", FutureWarning)
import torch
from diffusers import DiffusionPipeline
from scenes.captions import evaluation
from scenes.training.card import GUIDANCE, shares
from scenes.reader import read
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True)
pipe.set_progress_bar_config(disable=True)
asked = evaluation()[:5]
made = pipe(
    [one.en for one in asked],
    num_inference_steps=12,
    guidance_scale=GUIDANCE,
    generator=[torch.Generator("cpu").manual_seed(n) for n in range(5)],
).images
print(json.dumps(shares(list(zip(asked, map(read, made))))))
"""


def test_files_are_those_of_the_card():
    text = (MODEL / "README.md").read_text("utf-8")
    assert card.told_files(text) == card.files(MODEL)


def test_card_of_other_files_is_noticed(tmp_path):
    (tmp_path / "unet.safetensors").write_bytes(b"weights")
    text = "| `unet.safetensors` | 7 | " + "0" * 64 + " |"
    assert card.told_files(text).keys() == card.files(tmp_path).keys()
    assert card.told_files(text) != card.files(tmp_path)


def test_it_is_small_and_of_safetensors_in_float16():
    files = card.files(MODEL)
    assert sum(size for size, _ in files.values()) <= 12_000_000
    weights = [path for path in files if not path.endswith((".json", ".txt"))]
    assert len(weights) == 3
    for path in weights:
        content = (MODEL / path).read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        header.pop("__metadata__")
        assert {one["dtype"] for one in header.values()} == {"F16"}
        if path.startswith("text_encoder/"):
            assert all(name.startswith("text_model.") for name in header)


def test_older_readers_find_the_tokenizer():
    assert (MODEL / "tokenizer" / "vocab.json").is_file()
    assert (MODEL / "tokenizer" / "merges.txt").is_file()


def test_tokenizer_is_the_one_of_the_captions():
    from scenes.captions import vocabulary as words
    from scenes.training import vocabulary

    shipped = json.loads((MODEL / "tokenizer" / "vocab.json").read_text("utf-8"))
    assert shipped == vocabulary.tokens(vocabulary.merges(words()))


@pytest.mark.journey
def test_stock_diffusers_draws_what_the_prompts_say():
    done = subprocess.run(
        [sys.executable, "-c", _DRAW, str(MODEL)],
        cwd=Path(scenes.__file__).parents[1],
        capture_output=True,
        check=True,
        timeout=150,
    )
    right = json.loads(done.stdout)
    # Of 30 attributes; chance is right for about a quarter.
    assert sum(right.values()) / len(right) >= 0.75, right
    for complaint in ("not initialized", "UNEXPECTED", "MISSING"):
        assert complaint not in done.stderr.decode()
