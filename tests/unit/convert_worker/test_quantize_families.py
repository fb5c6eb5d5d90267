"""Quantized components of many families are what stock quantizes while it loads, to the bit."""

from __future__ import annotations

import json

import pytest

from harness import families, quantkit
from harness.converted import convert
from zhcache.pipeline import skeleton
from zhcache.protocol.conversion import Part

DENOISERS = {
    "sd15": "unet",
    "sdxl": "unet",
    "sd3": "transformer",
    "flux": "transformer",
    "pixart": "transformer",
    "lumina": "transformer",
    "z-image": "transformer",
    "qwen-image": "transformer",
}
ENCODERS = (
    ("sd15", "text_encoder"),
    ("sdxl", "text_encoder_2"),
    ("sd3", "text_encoder_3"),
    ("lumina", "text_encoder"),
    ("z-image", "text_encoder"),
    # Its published keys are not the names that its module has for them.
    ("qwen-image", "text_encoder"),
)


def component(family, name):
    folder = families.folder(family)
    library, kind = json.loads((folder / "model_index.json").read_text("utf-8"))[name]
    return folder / name, library, skeleton.component_class(library, kind)


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
@pytest.mark.parametrize("family", DENOISERS)
def test_denoiser_is_what_stock_makes(family, scheme, tmp_path):
    check(family, DENOISERS[family], scheme, tmp_path)


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
@pytest.mark.parametrize(("family", "name"), ENCODERS)
def test_text_encoder_is_what_stock_makes(family, name, scheme, tmp_path):
    check(family, name, scheme, tmp_path)


def check(family, name, scheme, tmp_path):
    source, library, kind = component(family, name)
    made = convert(source, tmp_path / name, library, kind.__name__, Part(scheme=scheme))
    stock = quantkit.quantized(kind, source, library, scheme)
    for dtype in (True, False):
        mine = quantkit.loaded(kind, made.folder, dtype=dtype)
        quantkit.check_same(mine, stock)
    said = json.loads((made.folder / "config.json").read_text("utf-8"))
    assert quantkit.plain(said["quantization_config"]) == quantkit.plain(
        stock.config.quantization_config
    )
    check_errors(made, scheme)
    assert made.finished.tools["torchao"]


def check_errors(made, scheme):
    narrow = [one for one in made.errors.values() if "scale" not in one.name]
    quantized = [one for one in narrow if one.name.endswith(".weight") and one.max_abs]
    # Half a step of 127, and the rounding to bfloat16 before and after; a sixteenth of e4m3.
    limit = {"int8": 0.02, "fp8": 0.05}[scheme]
    assert any(one.relative > limit / 10 for one in quantized)
    assert all(one.relative < limit for one in quantized)


@pytest.mark.parametrize("scheme", ["int8", "fp8", "int4"])
@pytest.mark.parametrize("family", ["sd15", "flux", "qwen-image"])
def test_pictures_are_those_of_stock(family, scheme, tmp_path):
    """With all other components in bfloat16, as the built-in recipes have it."""
    import shutil

    import torch
    from diffusers import DiffusionPipeline, PipelineQuantizationConfig

    name = DENOISERS[family]
    source, library, kind = component(family, name)
    target = tmp_path / family
    shutil.copytree(source.parent, target, ignore=shutil.ignore_patterns(name))
    options = {} if scheme != "int4" else {"group_size": 32}
    part = Part(scheme=scheme, **options)
    convert(source, target / name, library, kind.__name__, part)
    config = quantkit.settings(library, scheme, **options)
    stock = DiffusionPipeline.from_pretrained(
        source.parent,
        dtype=torch.bfloat16,
        quantization_config=PipelineQuantizationConfig(quant_mapping={name: config}),
    )
    mine = DiffusionPipeline.from_pretrained(target, dtype=torch.bfloat16)
    assert (families.draw(mine) == families.draw(stock)).all()
