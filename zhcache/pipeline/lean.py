"""Carries out what ``fit`` chose, on a loaded pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zhcache.pipeline.fit import Fit

if TYPE_CHECKING:
    import torch


def apply(pipeline: Any, chosen: Fit, device: torch.device) -> Any:
    """Returns ``pipeline``, set up as ``chosen`` says; its weights lie on the CPU if offloaded."""
    if chosen.is_tiled:
        pipeline.vae.enable_tiling()
        pipeline.vae.enable_slicing()
    if chosen.is_offloaded:
        stream(pipeline, device)
    pipeline.memory_report = str(chosen)
    return pipeline


def stream(pipeline: Any, device: torch.device, stay: Sequence[str] = ()) -> None:
    """Has weights come to ``device`` layer by layer from the CPU, but for components that ``stay``.

    They come in streams and are pinned as they come: what is on the host stays the mapped, shared
    files. Source: ``diffusers.hooks.group_offloading``, ``low_cpu_mem_usage``.
    """
    has_streams = device.type == "cuda"
    pipeline.enable_group_offload(
        onload_device=device,
        offload_type="leaf_level",
        use_stream=has_streams,
        low_cpu_mem_usage=has_streams,
        exclude_modules=list(stay),
    )
