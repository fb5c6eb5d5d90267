"""A value that fp16 cannot hold: it survives the load, and so does the picture."""

import json

import numpy as np
import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file, save_file

from harness import families
from zhcache.errors import UsageError
from zhcache.pipeline import reading, widened

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
MODULE = f"{BLOCK}.attn1.to_k"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A pipeline in fp32 with one weight above fp16's largest, whose input is small."""
    pipeline = DiffusionPipeline.from_pretrained(families.folder("sd15"), dtype=torch.float32)
    block = pipeline.unet.get_submodule(BLOCK)
    with torch.no_grad():
        block.norm1.weight[0] = 1e-3
        block.norm1.bias[0] = 0
        block.attn1.to_k.weight[0, 0] = 1e5
    folder = tmp_path_factory.mktemp("wide") / "source"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def variant(source, tmp_path_factory):
    """As the converter leaves it: fp16, but for that module, and a report that says so."""
    folder = tmp_path_factory.mktemp("wide") / "fp16"
    DiffusionPipeline.from_pretrained(source, dtype=torch.float16).save_pretrained(folder)
    tensors = load_file(folder / UNET)
    tensors[f"{MODULE}.weight"] = load_file(source / UNET)[f"{MODULE}.weight"]
    save_file(tensors, folder / UNET, metadata={"format": "pt"})
    report = {"components": {"unet": {"kept": {MODULE: "overflow in fp16", "conv_in": "asked"}}}}
    (folder / widened.REPORT).write_text(json.dumps(report))
    return folder


def test_the_picture_is_the_sources(source, variant):
    wanted = families.draw(reading.over_files(source, {}))
    pipeline = reading.over_files(variant, {})
    assert pipeline.unet.get_submodule(MODULE).weight.dtype == torch.float32
    assert pipeline.unet.conv_in.weight.dtype == torch.float16
    made = families.draw(pipeline)
    assert np.isfinite(made).all()
    assert np.abs(made - wanted).mean() < 0.02


def test_stock_makes_infinities_of_it(variant):
    pipeline = DiffusionPipeline.from_pretrained(variant, dtype=torch.float16)
    assert pipeline.unet.get_submodule(MODULE).weight.isinf().any()


def test_a_component_of_the_users_own_is_left_alone(source, variant):
    own = DiffusionPipeline.from_pretrained(source, dtype=torch.float16).unet
    pipeline = reading.over_files(variant, {"unet": own})
    assert pipeline.unet.get_submodule(MODULE).weight.dtype == torch.float16


def test_files_may_know_a_module_by_a_longer_name(variant):
    part = torch.nn.Module()
    part.inner = torch.nn.Linear(2, 3)
    tensors = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
    assert widened._find(part, "text_model.inner", tensors) is part.inner
    assert widened._find(part, "text_model.other", tensors) is None
    assert widened._find(part, "inner", {"weight": torch.zeros(2, 2)}) is None


def test_module_that_is_not_there_is_told(variant, tmp_path):
    report = {"components": {"unet": {"kept": {"nowhere": "NaN"}}}}
    pipeline = reading.over_files(families.folder("sd15"), {})
    (tmp_path / widened.REPORT).write_text(json.dumps(report))
    (tmp_path / "model_index.json").write_bytes((variant / "model_index.json").read_bytes())
    with pytest.raises(UsageError, match="nowhere of unet"):
        widened.restore(tmp_path, pipeline)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"components": 1}', b"\xff", b"[" * 9999])
def test_report_that_is_none_says_nothing(content, tmp_path):
    (tmp_path / widened.REPORT).write_bytes(content)
    assert widened.wide(tmp_path) == {}
