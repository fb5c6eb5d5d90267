"""What a pipeline takes: its weights from their headers, its calls from its configuration.

What calls take was counted over the modules of SD 1.5, SDXL and FLUX.1 on torch's meta device, as
the bytes of all tensors that live at once: the autoencoder's last stage holds three images of its
second width, a U-Net's step 26 of its first (guidance included), a transformer's block 18 of its
width. Attention is counted as the fused kernels do it, without its scores. Cards run other
workspaces beside; ``fit.MARGIN`` is for them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from zhcache.pipeline.fit import Form, Needs
from zhcache.pipeline.published import header, published

DECODE_IMAGES = 3
UNET_STATES = 26
TRANSFORMER_STATES = 18
GUIDED = 2
SIDE = 1024
"""Pixels, where a pipeline does not say for what size it was made."""

MAX_COUNT = 2**20
MAX_STAGES = 16
"""Larger numbers, or more stages, are of no model: its configuration came over the network."""

_DENOISERS = ("transformer", "unet")
_WIDTH = 256
HIDDEN = 4096
"""Of a transformer whose configuration does not say it in known words: that of large ones."""


def form(folder: Path, variant: str | None) -> Form:
    """Returns what the weights in a pipeline's folder take.

    Raises:
        UsageError: It is no pipeline.
        IntegrityError: Its index or a header cannot be read.
    """
    parts: dict[str, int] = {}
    largest = 0
    for name, files in published(folder).files.items():
        parts[name] = sum(file.stat().st_size for file in files)
        for file in files:
            for key, tensor in header(file).items():
                if key != "__metadata__":
                    start, end = tensor["data_offsets"]
                    largest = max(largest, end - start)
    return Form(variant, parts, largest)


def needs(folder: Path) -> Needs:
    """Returns what calls take at the size the pipeline was made for.

    Raises:
        UsageError: It is no pipeline.
        IntegrityError: Its index or a header cannot be read.
    """
    width = 4 if "float32" in published(folder).dtypes.values() else 2
    vae = _config(folder / "vae")
    scale = 2 ** max(len(_list(vae, "block_out_channels")) - 1, 0) if vae else 8
    denoiser = next((c for name in _DENOISERS if (c := _config(folder / name))), {})
    latent = _number(denoiser, "sample_size")
    side = latent * scale if latent else SIDE
    decode = _decode(vae, side, width)
    tiled = min(_number(vae, "sample_size") or side, side)
    return Needs(_step(denoiser, side, scale, width), decode, _decode(vae, tiled, width))


def _decode(vae: dict[str, Any], side: int, width: int) -> int:
    channels = _list(vae, "block_out_channels")
    widest = channels[1] if len(channels) > 1 else (channels or [_WIDTH])[0]
    # Decoded in float32 whatever the weights are.
    width = 4 if vae.get("force_upcast") else width
    return DECODE_IMAGES * side * side * widest * width


def _step(denoiser: dict[str, Any], side: int, scale: int, width: int) -> int:
    latent = math.ceil(side / scale)
    if channels := _list(denoiser, "block_out_channels"):
        return UNET_STATES * GUIDED * latent * latent * channels[0] * width
    heads, size = (_number(denoiser, n) for n in ("num_attention_heads", "attention_head_dim"))
    if heads and size:
        hidden = heads * size
    else:
        hidden = _number(denoiser, "dim") or _number(denoiser, "hidden_size") or HIDDEN
    # Where a patch is one latent, latents are packed by twos before.
    patch = max(_number(denoiser, "patch_size") or 2, 2)
    passes = 1 if denoiser.get("guidance_embeds") else GUIDED
    return TRANSFORMER_STATES * passes * (latent // patch) ** 2 * hidden * width


def _list(config: dict[str, Any], name: str) -> list[int]:
    found = config.get(name)
    return [n for n in found[:MAX_STAGES] if _is_count(n)] if isinstance(found, list) else []


def _number(config: dict[str, Any], name: str) -> int | None:
    found = config.get(name)
    return found if _is_count(found) else None


def _is_count(found: Any) -> bool:
    # What no model has was not meant to be reckoned with.
    return type(found) is int and 0 < found <= MAX_COUNT


def _config(component: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads((component / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
