"""Weights that no reader could load are refused, and no variant is made of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import converted, families
from zhcache.errors import IntegrityError
from zhcache.protocol.conversion import Part

UNET = "diffusion_pytorch_model.safetensors"
CLIP = "model.safetensors"


def spoilt(tmp_path: Path, component: str, change) -> Path:
    folder = tmp_path / component
    shutil.copytree(families.folder("sd15") / component, folder)
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return folder


def cast(source: Path, library: str, kind: str):
    return converted.convert(source, source.parent / "made", library, kind, Part(scheme="fp16"))


def test_another_shape(tmp_path):
    def change(tensors):
        tensors["conv_in.bias"] = torch.zeros(1, 3)

    source = spoilt(tmp_path, "unet", change)
    with pytest.raises(IntegrityError, match=r"conv_in\.bias is \[1, 3\], not \[32\]"):
        cast(source, "diffusers", "UNet2DConditionModel")


def test_renamed(tmp_path):
    source = spoilt(tmp_path, "unet", lambda t: t.update(nowhere=t.pop("conv_in.bias")))
    with pytest.raises(IntegrityError, match=r"conv_in\.bias is missing, one of 1"):
        cast(source, "diffusers", "UNet2DConditionModel")


@pytest.mark.parametrize(
    ("component", "library", "kind"),
    [
        ("unet", "diffusers", "UNet2DConditionModel"),
        ("text_encoder", "transformers", "CLIPTextModel"),
    ],
)
def test_nothing_at_all(tmp_path, component, library, kind):
    source = spoilt(tmp_path, component, lambda tensors: tensors.clear())
    with pytest.raises(IntegrityError, match="is missing"):
        cast(source, library, kind)


def test_more_than_the_module_knows_is_passed_over(tmp_path):
    source = spoilt(tmp_path, "unet", lambda tensors: tensors.update(more=torch.ones(2)))
    made = cast(source, "diffusers", "UNet2DConditionModel")
    assert load_file(made.folder / UNET)["more"].dtype == torch.float16
