"""Less memory, the same picture; what is reckoned beside what is there."""

import pytest
import torch

from harness import families
from zhcache.pipeline import lean, needs, reading
from zhcache.pipeline.fit import Fit, fit


def chosen(**changes):
    return Fit(**({"variant": None, "is_tiled": False, "is_offloaded": False, "bytes": 0,
                   "why": ("because",)} | changes))  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    return families.draw(reading.over_files(families.folder("sd15"), {}))


def test_offloaded_layers_make_the_same_image(plain):
    pipeline = reading.over_files(families.folder("sd15"), {})
    lean.apply(pipeline, chosen(is_offloaded=True), torch.device("cpu"))
    hooked = [part for part in pipeline.unet.modules() if hasattr(part, "_diffusers_hook")]
    assert hooked
    assert torch.equal(torch.as_tensor(families.draw(pipeline)), torch.as_tensor(plain))


def test_tiles_are_switched_on_and_told():
    pipeline = reading.over_files(families.folder("sd15"), {})
    lean.apply(pipeline, chosen(is_tiled=True), torch.device("cpu"))
    assert pipeline.vae.use_tiling
    assert pipeline.vae.use_slicing
    assert pipeline.memory_report == "because"


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux", "pixart", "qwen-image"])
def test_weights_are_counted_as_they_lie(family):
    folder = families.folder(family)
    files = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    found = needs.form(folder, "fp16")
    assert found.bytes == files
    assert 0 < found.largest < max(found.parts.values())
    calls = needs.needs(folder)
    assert calls.step > 0
    assert calls.decode >= calls.decode_tiled > 0
    assert fit([found], calls, "auto", free=2**40, is_cuda=False).variant == "fp16"
