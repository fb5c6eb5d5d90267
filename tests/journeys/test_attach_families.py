"""Attached pipelines of every family are what stock ``from_pretrained`` gives, bit for bit."""

from __future__ import annotations

import numpy
import pytest

from harness import arenas, families, sameness

CPU = "cpu"


def of_stock(name: str):
    import torch
    from diffusers import DiffusionPipeline

    _, dtype = families.FAMILIES[name]
    return DiffusionPipeline.from_pretrained(families.folder(name), dtype=getattr(torch, dtype))


def over_arenas(name: str):
    import torch

    from zhcache.pipeline import reading

    folder = families.folder(name)
    return reading.over_arenas(folder, torch.device(CPU), {}, arenas.hand(folder))


def over_files(name: str):
    from zhcache.pipeline import reading

    return reading.over_files(families.folder(name), {})


@pytest.fixture(params=families.FAMILIES)
def family(request) -> str:
    return request.param


def test_attached_pipeline_of_each_family_equals_stock(family):
    stock, shared, mapped = of_stock(family), over_arenas(family), over_files(family)
    assert type(shared) is type(stock)
    assert set(sameness.modules(shared)) == set(sameness.modules(stock))
    for name, part in sameness.modules(stock).items():
        for other in (shared, mapped):
            sameness.check(getattr(other, name), part)
    drawn = families.draw(stock)
    assert numpy.array_equal(families.draw(shared), drawn)
    assert numpy.array_equal(families.draw(mapped), drawn)
    assert drawn.std() > 0.01
