"""Pipelines with a quantized denoiser, attached, are what stock ``from_pretrained`` gives."""

from __future__ import annotations

import operator

import numpy
import pytest

from harness import arenas, families, memory, quantized, residentfront, sameness
from zhcache.pipeline import mapping, wrapping
from zhcache.resident.open import open_resident

FAMILIES = ("sd15", "flux")


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(params=quantized.SCHEMES)
def folder(request, family):
    return quantized.folder(family, request.param)


def of_stock(folder):
    import torch
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder, dtype=torch.bfloat16)


def test_quantized_pipeline_over_files_and_arenas_equals_stock(folder):
    import torch

    from zhcache.pipeline import reading

    stock = of_stock(folder)
    shared = reading.over_arenas(folder, torch.device("cpu"), {}, arenas.hand(folder))
    mapped = reading.over_files(folder, {})
    for name, part in sameness.modules(stock).items():
        sameness.check(getattr(shared, name), part)
        sameness.check(getattr(mapped, name), part)
    drawn = families.draw(stock)
    assert numpy.array_equal(families.draw(shared), drawn)
    assert numpy.array_equal(families.draw(mapped), drawn)
    assert drawn.std() > 0.01
    # It was quantized indeed; all of it lies in the arena, or in its file.
    held, read = parts(shared, folder), parts(mapped, folder)
    assert {part.dtype for part in held} & {torch.int8, torch.uint8, torch.float8_e4m3fn}
    assert all(mapping.is_shared(part) for part in held)
    in_file = [memory.mapped_file(part.data_ptr()).endswith(".safetensors") for part in read]
    # Stock casts the scales of sdnq, and with them leaves the file.
    of_scale = [part.dtype == torch.float32 for part in read]
    assert all(map(operator.or_, in_file, of_scale))
    assert any(in_file)


def test_quantized_text_encoder_over_arenas_equals_stock():
    import torch

    from zhcache.pipeline import reading

    folder = quantized.folder("z-image", quantized.TEXT)
    stock = of_stock(folder)
    shared = reading.over_arenas(folder, torch.device("cpu"), {}, arenas.hand(folder))
    for name, part in sameness.modules(stock).items():
        sameness.check(getattr(shared, name), part)
    assert shared.text_encoder.quantization_method == stock.text_encoder.quantization_method
    assert all(mapping.is_shared(part) for part in memory_of(shared.text_encoder))
    assert numpy.array_equal(families.draw(shared), families.draw(stock))


@pytest.mark.parametrize("scheme", quantized.SCHEMES)
def test_resident_worker_draws_what_stock_draws(scheme, tmp_path, monkeypatch):
    folder = quantized.folder("flux", scheme)
    front = residentfront.Front(tmp_path, folder)
    monkeypatch.setenv("ZHCACHE_SOCKET", str(front.socket))
    stock = of_stock(folder)
    drawn = families.draw(stock)
    with open_resident("org/pipe", device="cpu") as pipe:
        assert numpy.array_equal(families.draw(pipe), drawn)
        # A second call finds the weights as they were loaded.
        assert numpy.array_equal(families.draw(pipe), drawn)
        held = [part for one in sameness.modules(stock).values() for part in memory_of(one)]
        assert pipe._session.opened.bytes == sum(
            {one.data_ptr(): one.nbytes for one in held}.values()
        )
    front.close()


def parts(pipeline, folder):
    return memory_of(getattr(pipeline, quantized.denoiser(folder)))


def memory_of(module):
    return [part for one in module.parameters() for part in wrapping.memory(one)]
