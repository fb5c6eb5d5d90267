"""Tiny pipelines whose denoiser stock diffusers has quantized and saved."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness import families

# Else sdnq compiles in each process that it is imported in, for longer than a test takes.
os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")

RECIPE = 1
SCHEMES = ("int8", "fp8", "int4")
TEXT = "text"
"""The text encoder in int8, as transformers does it, and nothing else."""


def folder(family: str, scheme: str) -> Path:
    """Returns the folder of ``family``, its denoiser quantized; built if it is not there."""
    plain = families.folder(family)
    target = plain.with_name(f"{plain.name}-{scheme}-{RECIPE}")
    if target.exists():
        return target
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _build(plain, scheme, scratch / "made")
        # Another process may have been faster; its bytes are the same.
        with suppress(OSError):
            (scratch / "made").rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def denoiser(folder: Path) -> str:
    """Returns the name of the component that is quantized."""
    return "unet" if os.path.isdir(folder / "unet") else "transformer"


def _build(plain: Path, scheme: str, target: Path) -> None:
    import torch
    from diffusers import DiffusionPipeline, PipelineQuantizationConfig

    component = "text_encoder" if scheme == TEXT else denoiser(plain)
    mapping = PipelineQuantizationConfig(quant_mapping={component: config(scheme)})
    pipeline = DiffusionPipeline.from_pretrained(
        plain, dtype=torch.bfloat16, quantization_config=mapping
    )
    pipeline.save_pretrained(target)


def config(scheme: str) -> Any:
    """Returns how diffusers is asked for it."""
    if scheme == "int4":
        from sdnq import SDNQConfig

        # Layers as small as these are left alone otherwise.
        small = {"minimum_allowed_numel": 1, "minimum_allowed_channel_size": 16}
        return SDNQConfig(weights_dtype="uint4", group_size=16, **small)
    from diffusers import TorchAoConfig
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig as OfTransformers

    if scheme == TEXT:
        return OfTransformers(Int8WeightOnlyConfig())
    kinds = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}
    return TorchAoConfig(kinds[scheme]())
