"""What is known of families of denoisers, by class: what calls hold, how an image can be shared.

The numbers of states were counted over diffusers' own classes on torch's meta device, at the sizes
that each family is made for; ``tests/unit/placement/test_activation_counted.py`` counts again.
"""

from __future__ import annotations

from dataclasses import dataclass


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
        is_unet: It is a U-Net: its two passes of guidance can be shared among two devices.
        size: Width and height it was made for; None where the configuration says it.
        per_latent: Pixels along a side that a latent stands for; 0 where the configuration says it.
        patch: Latents along a side that are one token; 0 where the configuration says it.
        tile: Pixels of an autoencoder's tile; 0 where the configuration says it.
        frames: Latent frames of a call; of images 1.
    """

    name: str
    states: int = 18
    text: int = 512
    is_guided_apart: bool = False
    decode_images: int = 3
    has_plan: bool = False
    is_unet: bool = False
    size: tuple[int, int] | None = None
    per_latent: int = 0
    patch: int = 0
    tile: int = 0
    frames: int = 1


UNET = Family("U-Net", states=26, text=0, is_unet=True)
# Of a transformer that was not counted, as much as of the one that holds most.
UNKNOWN = Family("transformer", states=22)
FAMILIES = {
    "UNet2DConditionModel": UNET,
    "FluxTransformer2DModel": Family("FLUX.1", states=18, has_plan=True),
    "Flux2Transformer2DModel": Family("FLUX.2", states=22, has_plan=True),
    # Its autoencoder, as Wan's, is one of films, that decodes an image as their first frame.
    "QwenImageTransformer2DModel": Family(
        "Qwen-Image", states=15, is_guided_apart=True, has_plan=True, decode_images=18, tile=256
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
    ),
    "LTXVideoTransformer3DModel": Family(
        "LTX-Video",
        states=17,
        text=128,
        has_plan=True,
        decode_images=33,
        size=(704, 512),
        per_latent=32,
        patch=1,
        tile=512,
        frames=21,
    ),
    "SD3Transformer2DModel": Family("SD3", states=13, text=333),
    "PixArtTransformer2DModel": Family("PixArt", states=12, text=300),
    "HunyuanDiT2DModel": Family("HunyuanDiT", states=17, text=333),
    "ZImageTransformer2DModel": Family("Z-Image", states=17),
    "CogView4Transformer2DModel": Family("CogView4", states=13, text=1024),
    "SanaTransformer2DModel": Family("Sana", states=15, text=300, patch=1, decode_images=4),
}


def family_of(kind: str) -> Family:
    """Returns the family of a denoiser's class."""
    found = FAMILIES.get(kind)
    if found is not None:
        return found
    return UNET if "UNet" in kind else UNKNOWN
