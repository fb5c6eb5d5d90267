"""What calls take beside the weights: by family, size of image and batch. Pure.

Every figure is a number of states of a module's own width that live at once, as they were counted
over diffusers' classes on torch's meta device (``families``): of a transformer for each token, of a
U-Net for each latent, of an autoencoder for each pixel, of its second width. Attention is counted
as the fused kernels do it, without its scores. Devices run other workspaces beside; ``MARGIN`` is
for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zhcache.placement.families import UNET, Family, family_of

MARGIN = 1.2
"""Of what is counted, for what is not: workspaces of convolutions, the allocator's gaps."""

TEXT_STATES = 25
"""States of a text encoder's width for each token; those of its layers are kept beside."""

GUIDED = 2
PLAIN_FIRST = "plain_first"
"""Said of a U-Net without attention at its full resolution, as SDXL's is."""

PLAIN_STATES = 16
"""States of its step, for each latent."""

SIDE = 1024
"""Pixels, where a pipeline does not say for what size it was made."""

PER_LATENT = 8
"""Pixels along a side, where an autoencoder does not say it in known words."""

MAX_COUNT = 2**20
MAX_STAGES = 16
"""Larger numbers, or more stages, are of no model: its configuration came over the network."""

MAX_LAYERS = 256
"""Of a text encoder."""

LEAST_TEXT = 77
"""Tokens of a prompt where the denoiser sees none beside the image's: those of CLIP."""

_WIDTH = 256
_HIDDEN = 4096
"""Of a transformer whose configuration does not say it in known words: that of large ones."""

_NUMBERS = (
    "sample_size", "num_attention_heads", "attention_head_dim", "dim", "hidden_size", "patch_size",
    "d_model", "num_hidden_layers", "max_position_embeddings", "base_dim",
)  # fmt: skip
_LISTS = ("block_out_channels", "encoder_block_out_channels", "decoder_block_out_channels")
_FLAGS = ("guidance_embeds", "force_upcast")

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Needs:
    """Bytes beside the weights.

    Attributes:
        step: Of one step of the denoiser.
        decode: Of the autoencoder, whole.
        decode_tiled: Of the autoencoder, tile by tile; as ``decode`` where it has none.
        encode: Of the text encoders, one after the other.
    """

    step: int
    decode: int
    decode_tiled: int
    encode: int = 0


@dataclass(frozen=True, slots=True)
class Size:
    """What one call makes: pixels, and images at once."""

    width: int
    height: int
    batch: int = 1


def known(config: Any) -> dict[str, int | bool | list[int]]:
    """Returns what of a component's configuration is reckoned with, without what is of no model."""
    if not isinstance(config, dict):
        return {}
    found: dict[str, int | bool | list[int]] = {}
    for name in _NUMBERS:
        if _is_count(config.get(name)):
            found[name] = config[name]
    for name in _LISTS:
        if isinstance(config.get(name), list):
            found[name] = [one for one in config[name][:MAX_STAGES] if _is_count(one)]
    for name in _FLAGS:
        if config.get(name) is True:
            found[name] = True
    match config.get("down_block_types"):
        case [str() as first, *_] if "Attn" not in first:
            found[PLAIN_FIRST] = True
        case _:
            pass
    # A text encoder beside others in one configuration says it one level down.
    inner = config.get("text_config")
    return (
        {**known(inner), **found}
        if isinstance(inner, dict) and "text_config" not in inner
        else found
    )


def own_size(denoiser: Config, vae: Config, family: Family) -> Size:
    """Returns the size a pipeline was made for."""
    latent = denoiser.get("sample_size")
    if latent and family.size is None:
        pixels = latent * scale(vae, family)
        return Size(pixels, pixels)
    return Size(*(family.size or (SIDE, SIDE)))


def scale(vae: Config, family: Family) -> int:
    """Returns how many pixels a latent stands for, along a side."""
    stages = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or ()
    return family.per_latent or (2 ** (len(stages) - 1) if stages else PER_LATENT)


def side(denoiser: Config, vae: Config, family: Family) -> int:
    """Returns how many pixels a token of a transformer stands for, along a side."""
    return scale(vae, family) * _patch(denoiser, family)


def tokens(denoiser: Config, vae: Config, family: Family, size: Size) -> int:
    """Returns how many tokens a transformer has of one image or film, texts left out."""
    across, down = (math.ceil(pixels / scale(vae, family)) for pixels in (size.width, size.height))
    patch = _patch(denoiser, family)
    return family.frames * (across // patch) * (down // patch)


def needs(
    denoiser: Config,
    vae: Config,
    encoders: Sequence[Config] = (),
    *,
    kind: str = "",
    width: int,
    vae_width: int | None = None,
    size: Size | None = None,
    has_text: bool = True,
) -> Needs:
    """Returns what calls take.

    Args:
        denoiser: What is known of its configuration, as of the others.
        vae: Of the autoencoder.
        encoders: Of the text encoders.
        kind: The denoiser's class.
        width: Bytes of a number.
        vae_width: Of the autoencoder's numbers, where they are others.
        size: Of a call; None is the pipeline's own size, one image.
        has_text: Prompts are as long as they may be; else of no token.
    """
    family = family_of(kind) if has_text else replace(family_of(kind), text=0)
    size = size or own_size(denoiser, vae, family)
    tile = min(vae.get("sample_size") or family.tile or MAX_COUNT, max(size.width, size.height))
    # Sides apart: a long narrow image has long narrow tiles only where it is longer than one.
    tiled = Size(min(tile, size.width), min(tile, size.height))
    decoded = vae_width or width
    return Needs(
        _step(denoiser, vae, family, size, width),
        _decode(vae, size, family, decoded),
        # Tiles and images come one after the other.
        _decode(vae, tiled, family, decoded),
        max((_encode(each, family, width) for each in encoders), default=0),
    )


def with_margin(count: int) -> int:
    """Returns what is to be kept free for calls that take ``count`` as they were counted."""
    return int(count * MARGIN)


def _decode(vae: Config, size: Size, family: Family, width: int) -> int:
    channels = vae.get("block_out_channels") or vae.get("decoder_block_out_channels") or ()
    widest = channels[1] if len(channels) > 1 else (*channels, vae.get("base_dim", _WIDTH))[0]
    # Pipelines of U-Nets decode in float32 then, whatever the weights are; others do not ask.
    width = 4 if vae.get("force_upcast") and family.is_unet else width
    images = size.batch * family.decode_images
    return images * size.width * size.height * widest * width


def _step(denoiser: Config, vae: Config, family: Family, size: Size, width: int) -> int:
    if channels := denoiser.get("block_out_channels"):
        of_one = scale(vae, family)
        latents = math.ceil(size.width / of_one) * math.ceil(size.height / of_one)
        states = PLAIN_STATES if denoiser.get(PLAIN_FIRST) else UNET.states
        return states * GUIDED * size.batch * family.frames * latents * channels[0] * width
    heads, each = (denoiser.get(name) for name in ("num_attention_heads", "attention_head_dim"))
    hidden = heads * each if heads and each else denoiser.get("dim") or denoiser.get("hidden_size")
    passes = 1 if denoiser.get("guidance_embeds") or family.is_guided_apart else GUIDED
    seen = tokens(denoiser, vae, family, size) + family.text
    return family.states * passes * size.batch * seen * (hidden or _HIDDEN) * width


def _encode(config: Config, family: Family, width: int) -> int:
    hidden = config.get("hidden_size") or config.get("d_model") or _HIDDEN
    tokens = min(config.get("max_position_embeddings", MAX_COUNT), family.text or LEAST_TEXT)
    # Of each layer its result, as some pipelines take that of an inner one, and a cache's keys.
    states = TEXT_STATES + 2 * min(config.get("num_hidden_layers", 0), MAX_LAYERS)
    return states * tokens * hidden * width


def _patch(denoiser: Config, family: Family) -> int:
    # Where a patch is one latent, latents are mostly packed by twos before.
    return family.patch or max(denoiser.get("patch_size", 2), 2)


def _is_count(found: Any) -> bool:
    # What no model has was not meant to be reckoned with.
    return type(found) is int and 0 < found <= MAX_COUNT
