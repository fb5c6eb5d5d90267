"""The tiny pipeline: stock diffusers loads it, its bytes repeat, its tokenizer knows Chinese."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demohub import pipeline, vocabulary
from demohub.repos import StoredFile, folder_files

PROMPT = "一幅中国山水画,有青山绿水和云雾缭绕,传统水墨画风格"

_DRAW = """
import sys, warnings
from diffusers import DiffusionPipeline
import torch
warnings.simplefilter("error")
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
seeded = torch.Generator("cpu").manual_seed(1)
image = pipe(sys.argv[2], num_inference_steps=2, generator=seeded).images[0]
print(image.size, len(image.getcolors(4096)) > 100)
"""


def test_every_chinese_character_is_two_known_tokens():
    tokens = vocabulary.tokens()
    named = vocabulary.byte_characters()
    merged = set(vocabulary.merges())
    for character in PROMPT.replace(",", ""):
        first, second, third = (named[byte] for byte in character.encode())
        assert (first, second) in merged
        assert {first + second, third, third + "</w>"} <= tokens.keys()


def test_tokens_are_numbered_without_gaps():
    assert sorted(vocabulary.tokens().values()) == list(range(len(vocabulary.tokens())))


def test_pipeline_is_small_and_of_safetensors(pipeline_dir):
    files = folder_files(pipeline_dir)
    assert sum(path.stat().st_size for path in files.values()) < 8 << 20
    assert sorted(path for path in files if StoredFile.of(path, files[path]).is_lfs) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_pipeline_is_left_alone_when_it_is_there(pipeline_dir):
    before = {path: file.stat().st_mtime_ns for path, file in folder_files(pipeline_dir).items()}
    assert pipeline.build(pipeline_dir) == pipeline_dir
    after = {path: file.stat().st_mtime_ns for path, file in folder_files(pipeline_dir).items()}
    assert before == after


@pytest.mark.slow
def test_pipeline_of_another_recipe_is_replaced_and_bytes_repeat(pipeline_dir, tmp_path):
    target = tmp_path / "made"
    target.mkdir()
    (target / "README.md").write_text("recipe 0")
    _run("-m", "demohub.pipeline", str(target))
    once, again = folder_files(pipeline_dir), folder_files(target)
    assert once.keys() == again.keys()
    assert [path for path in once if once[path].read_bytes() != again[path].read_bytes()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


# What the demo shows at each run.
@pytest.mark.slow
def test_stock_diffusers_draws_from_a_chinese_prompt_offline(pipeline_dir):
    done = _run("-c", _DRAW, str(pipeline_dir), PROMPT)
    assert done.stdout.strip() == "(64, 64) True"
    for complaint in ("truncated", "not initialized", "newly initialized", "UNEXPECTED", "MISSING"):
        assert complaint not in done.stderr


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    examples = Path(pipeline.__file__).parents[1]
    env = os.environ | {"PYTHONPATH": str(examples), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=90)


@pytest.mark.parametrize("text", ["cut", "cut(at=10, path='*.bin')"])
def test_command_line_reads_faults_as_calls(text):
    from demohub.__main__ import parse_fault

    kind, options = parse_fault(text)
    assert (kind, options) == ("cut", {} if text == "cut" else {"at": 10, "path": "*.bin"})
