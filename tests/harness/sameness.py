"""Whether two modules are the same: tensors bit for bit, ties, configuration, classes."""

from __future__ import annotations

from zhcache.pipeline import wrapping


def check(other, module) -> None:
    """Asserts that ``other`` is what ``module`` is."""
    found, expected = tensors(other), tensors(module)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert ties(other) == ties(module)
    assert settings(other) == settings(module)


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
        name: (kind, grad, type(held), attributes(held), [facts(one) for one in parts(held)])
        for name, (kind, grad, held) in found.items()
    }


def parts(tensor):
    return wrapping.memory(tensor)


def facts(tensor):
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.device, content(tensor)


def attributes(tensor):
    """Returns what a tensor that wraps others is beside them."""
    inner = wrapping.inner(tensor)
    return (
        (tensor.dtype, tensor.shape, list(inner), tensor.__tensor_flatten__()[1]) if inner else None
    )


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
