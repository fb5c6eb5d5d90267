"""What stock makes of a quantized request, and whether a converted component is the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Else sdnq compiles in each process that it is imported in, for longer than a test takes.
os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")


def settings(library: str, scheme: str, **options: Any) -> Any:
    """Returns stock's ``quantization_config=`` for a scheme."""
    if scheme == "int4":
        from sdnq import SDNQConfig

        return SDNQConfig(weights_dtype="uint4", dequantize_fp32=False, **options)
    import diffusers
    import transformers
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    kind = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[scheme]
    config = (diffusers if library == "diffusers" else transformers).TorchAoConfig
    return config(kind(), **options)


def quantized(kind: Any, source: Path, library: str, scheme: str, **options: Any) -> Any:
    """Returns what stock makes of ``source`` while it loads it."""
    import torch

    config = settings(library, scheme, **options)
    return kind.from_pretrained(source, dtype=torch.bfloat16, quantization_config=config)


def loaded(kind: Any, folder: Path, *, dtype: bool = True) -> Any:
    """Returns what stock makes of a converted folder, asked for bfloat16 or for no dtype."""
    import torch

    options = {"dtype": torch.bfloat16} if dtype else {}
    return kind.from_pretrained(folder, **options)


def tensors(module: Any) -> dict[str, tuple[Any, ...]]:
    """Returns dtype, shape and bytes of all tensors, also of those that quantized ones wrap."""
    import torch

    found: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict().items():
        if hasattr(tensor, "tensor_data_names"):
            fields = [*tensor.tensor_data_names, *getattr(tensor, "optional_tensor_data_names", ())]
            parts = {field: getattr(tensor, field, None) for field in fields}
            found |= {f"{name}:{key}": part for key, part in parts.items() if part is not None}
        else:
            found[name] = tensor
    return {
        name: (
            tensor.dtype,
            tuple(tensor.shape),
            tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes(),
        )
        for name, tensor in found.items()
    }


def check_same(mine: Any, stock: Any) -> None:
    """Asserts that two modules have the same tensors, to the bit, quantized in the same way."""
    ours, theirs = tensors(mine), tensors(stock)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    kinds = {name: type(value).__name__ for name, value in mine.state_dict().items()}
    assert kinds == {name: type(value).__name__ for name, value in stock.state_dict().items()}
    assert [type(part).__name__ for part in mine.modules()] == [
        type(part).__name__ for part in stock.modules()
    ]


def plain(config: Any) -> dict[str, Any]:
    """Returns a ``quantization_config`` for comparison: lists whose order means nothing, sorted."""
    import json

    said = config if isinstance(config, dict) else config.to_dict()
    read: dict[str, Any] = json.loads(json.dumps(said))
    return {name: sorted(v) if isinstance(v, list) else v for name, v in read.items()}


def wide_flux(folder: Path, dtype: Any, *, shard: str | None = None) -> Path:
    """Writes a tiny FLUX whose layers are large enough for four bits; returns its folder.

    Its rows have 192, 384, 768 and 960 elements: groups of 64, but not of 80 or 128, divide most.
    """
    import torch
    from diffusers import FluxTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = FluxTransformer2DModel(
            patch_size=1,
            in_channels=20,
            num_layers=2,
            num_single_layers=1,
            attention_head_dim=48,
            num_attention_heads=4,
            joint_attention_dim=40,
            pooled_projection_dim=24,
            axes_dims_rope=(16, 16, 16),
        )
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    module.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    return folder
