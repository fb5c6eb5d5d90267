"""What is known of families of denoisers, by class: what calls hold, how an image can be shared.

The numbers of states were counted over diffusers' own classes on torch's meta device, at the sizes
that each family is made for; ``tests/unit/placement/test_activation_counted.py`` counts again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

DOUBLED = re.compile(
    r"(StableDiffusion(XL|3)?(ControlNet(Union)?|Adapter)?|Kolors|PixArt(Alpha|Sigma))"
    r"(Img2Img|Inpaint)?Pipeline"
)
"""Pipelines that call their denoiser with the batch twice, and let no processor look across it.

A list, since from outside it cannot be told: those with perturbed or self-attention guidance double
the batch as well, and compare its halves inside the denoiser.
"""

DOUBLED_SHOWN = "StableDiffusion*, StableDiffusionXL*, StableDiffusion3*, Kolors*, PixArt*"
"""The same for people."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    Attributes:
        name: As people call it.
        states: States of the denoiser's width that live at once in a step, for each token.
        text: Tokens of a prompt that go through the denoiser beside those of the image.
        is_guided_apart: Its pipeline runs the passes of guidance one after the other.
        decode_images: Images of the autoencoder's width that live at once when it decodes.
        has_plan: diffusers has a plan by which its tokens are shared among devices.
        masks: When its pipeline masks a part of the texts; ``uneven`` is where they are of
            different lengths. Said of those that have a plan.
        is_unet: It is a U-Net.
        size: Width and height it was made for; None where the configuration says it.
        per_latent: Pixels along a side that a latent stands for; 0 where the configuration says it.
        patch: Latents along a side that are one token; 0 where the configuration says it.
        tile: Pixels of an autoencoder's tile; 0 where the configuration says it.
        frames: Latent frames of a call; of images 1.
        film: Frames of a call that comes to so many latent ones; of images 1.
    """

    name: str
    states: int = 18
    text: int = 512
    is_guided_apart: bool = False
    decode_images: int = 3
    has_plan: bool = False
    masks: Literal["never", "uneven", "always"] = "never"
    is_unet: bool = False
    size: tuple[int, int] | None = None
    per_latent: int = 0
    patch: int = 0
    tile: int = 0
    frames: int = 1
    film: int = 1


# What was not counted is taken for the one that holds most of its kind.
UNET = Family("U-Net", states=26, text=0, is_unet=True)
UNET_FILM = replace(UNET, name="U-Net of films", frames=25, film=25, decode_images=24)
UNKNOWN = Family("transformer", states=22)
FILM = Family(
    "transformer of films",
    states=22,
    decode_images=64,
    size=(832, 480),
    tile=256,
    frames=21,
    film=81,
)
FAMILIES = {
    "UNet2DConditionModel": UNET,
    "FluxTransformer2DModel": Family("FLUX.1", states=18, has_plan=True),
    "Flux2Transformer2DModel": Family("FLUX.2", states=22, has_plan=True),
    # Its autoencoder, as Wan's, is one of films, that decodes an image as their first frame.
    "QwenImageTransformer2DModel": Family(
        "Qwen-Image",
        states=15,
        is_guided_apart=True,
        has_plan=True,
        masks="uneven",
        decode_images=18,
        tile=256,
    ),
    "WanTransformer3DModel": Family(
        "Wan",
        states=12,
        is_guided_apart=True,
        has_plan=True,
        decode_images=56,
        size=(832, 480),
        tile=256,
        frames=21,
        film=81,
    ),
    "LTXVideoTransformer3DModel": Family(
        "LTX-Video",
        states=17,
        text=128,
        has_plan=True,
        masks="always",
        decode_images=33,
        size=(704, 512),
        per_latent=32,
        patch=1,
        tile=512,
        frames=21,
        film=161,
    ),
    "SD3Transformer2DModel": Family("SD3", states=13, text=333),
    "PixArtTransformer2DModel": Family("PixArt", states=12, text=300),
    "HunyuanDiT2DModel": Family("HunyuanDiT", states=17, text=333),
    "ZImageTransformer2DModel": Family("Z-Image", states=17),
    "CogView4Transformer2DModel": Family("CogView4", states=13, text=1024),
    "LTX2VideoTransformer3DModel": replace(
        FILM, name="LTX-2", text=1024, has_plan=True, masks="always"
    ),
    "HeliosTransformer3DModel": replace(FILM, name="Helios", has_plan=True),
    "ChronoEditTransformer3DModel": replace(FILM, name="ChronoEdit", has_plan=True),
    "MiniMaxH3Transformer3DModel": replace(FILM, name="MiniMax-H3", has_plan=True),
    "SanaTransformer2DModel": Family("Sana", states=15, text=300, patch=1, decode_images=4),
}


_FILMS = re.compile(r"3D|Video|Motion|SpatioTemporal")


def family_of(kind: str) -> Family:
    """Returns the family of a denoiser's class."""
    found = FAMILIES.get(kind)
    if found is not None:
        return found
    if "UNet" in kind:
        return UNET_FILM if _FILMS.search(kind) else UNET
    return FILM if _FILMS.search(kind) else UNKNOWN
