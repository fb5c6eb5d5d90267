"""Attached pipelines of every family are what stock ``from_pretrained`` gives, bit for bit."""

from __future__ import annotations

import numpy
import pytest

from harness import arenas, families

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


def tensors(module):
    """Returns everything a module computes with: name to kind, dtype, strides and bytes."""
    import torch

    found = {}
    for name, held in module.named_parameters(remove_duplicate=False):
        found[name] = ("parameter", held.requires_grad, held)
    for name, held in module.named_buffers(remove_duplicate=False):
        found[name] = ("buffer", held.requires_grad, held)
    for path, part in module.named_modules():
        for name, held in vars(part).items():
            if isinstance(held, torch.Tensor):
                found[f"{path}.{name}"] = ("attribute", held.requires_grad, held)
    return {
        name: (kind, grad, held.dtype, held.stride(), held.device, content(held))
        for name, (kind, grad, held) in found.items()
    }


def content(tensor) -> bytes | None:
    import torch

    if tensor.is_meta:
        return None
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def ties(module) -> set[frozenset[str]]:
    by_memory: dict[int, set[str]] = {}
    for name, held in module.named_parameters(remove_duplicate=False):
        by_memory.setdefault(id(held), set()).add(name)
    return {frozenset(names) for names in by_memory.values() if len(names) > 1}


def modules(pipeline) -> dict:
    import torch

    return {
        name: part
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }


def settings(module) -> dict:
    config = module.config
    read = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    generation = getattr(module, "generation_config", None)
    return {
        "config": read,
        "generation": generation.to_dict() if generation is not None else None,
        "training": {name: part.training for name, part in module.named_modules()},
        "kinds": {name: type(part) for name, part in module.named_modules()},
        "unsaved": {
            name: part._non_persistent_buffers_set for name, part in module.named_modules()
        },
        "dtype": module.dtype,
        "device": module.device,
        "attention": getattr(config, "_attn_implementation", None),
        "tied": getattr(module, "all_tied_weights_keys", None),
        "keys": list(module.state_dict()),
    }


@pytest.fixture(params=families.FAMILIES)
def family(request) -> str:
    return request.param


def test_attached_pipeline_of_each_family_equals_stock(family):
    stock, shared, mapped = of_stock(family), over_arenas(family), over_files(family)
    assert type(shared) is type(stock)
    assert set(modules(shared)) == set(modules(stock))
    for name, part in modules(stock).items():
        for other in (shared, mapped):
            assert tensors(getattr(other, name)) == tensors(part), name
            assert ties(getattr(other, name)) == ties(part), name
            assert settings(getattr(other, name)) == settings(part), name
    drawn = families.draw(stock)
    assert numpy.array_equal(families.draw(shared), drawn)
    assert numpy.array_equal(families.draw(mapped), drawn)
    assert drawn.std() > 0.01
