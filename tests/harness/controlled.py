"""A tiny Stable Diffusion pipeline with a ControlNet of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import families


def over(pipeline: Any) -> Any:
    """Returns a pipeline over the components of one, with a ControlNet for its denoiser."""
    import torch
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    torch.manual_seed(3)
    net = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
    with torch.no_grad():
        # Its last layers begin as zeros, which would change nothing.
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    return StableDiffusionControlNetPipeline(**pipeline.components, controlnet=net.eval())


def write(target: Path) -> Path:
    """Writes one as published ones lie on the disk, and returns where."""
    from diffusers import DiffusionPipeline

    over(DiffusionPipeline.from_pretrained(families.folder("sd15"))).save_pretrained(target)
    return target
