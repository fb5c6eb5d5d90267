"""What is known of families of denoisers, by class: what a step holds, how it can be shared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    Attributes:
        name: As people call it.
        states: Images of the denoiser's width that live at once in a step.
        has_plan: diffusers has a plan by which its tokens are shared among devices.
        is_unet: It is a U-Net: its two passes of guidance can be shared among two devices.
        is_guided_apart: Its pipeline runs the passes of guidance one after the other.
        size: Width and height it was made for; None where the configuration says it.
        per_latent: Pixels along a side that a latent stands for; 0 where the configuration says it.
        tile: Pixels of an autoencoder's tile; 0 where the configuration says it.
        frames_latent: Latent frames of a call; of images 1.
        frames_decoded: Frames that its autoencoder decodes at once.
    """

    name: str
    states: int = 18
    has_plan: bool = False
    is_unet: bool = False
    is_guided_apart: bool = False
    size: tuple[int, int] | None = None
    per_latent: int = 0
    tile: int = 0
    frames_latent: int = 1
    frames_decoded: int = 1


UNET = Family("U-Net", is_unet=True)
UNKNOWN = Family("transformer")
FAMILIES = {
    "UNet2DConditionModel": UNET,
    "FluxTransformer2DModel": Family("FLUX.1", has_plan=True),
    "Flux2Transformer2DModel": Family("FLUX.2", has_plan=True),
    "QwenImageTransformer2DModel": Family(
        "Qwen-Image", has_plan=True, is_guided_apart=True, tile=256
    ),
    "WanTransformer3DModel": Family(
        "Wan", has_plan=True, is_guided_apart=True, size=(832, 480), tile=256, frames_latent=21,
        frames_decoded=4,
    ),
    "LTXVideoTransformer3DModel": Family(
        "LTX-Video",
        has_plan=True,
        size=(704, 512),
        tile=512,
        per_latent=32,
        frames_latent=21,
        frames_decoded=8,
    ),
    "SD3Transformer2DModel": Family("SD3"),
    "PixArtTransformer2DModel": Family("PixArt"),
    "HunyuanDiT2DModel": Family("HunyuanDiT"),
    "ZImageTransformer2DModel": Family("Z-Image"),
    "CogView4Transformer2DModel": Family("CogView4"),
    "SanaTransformer2DModel": Family("Sana"),
}  # fmt: skip


def family_of(kind: str) -> Family:
    """Returns the family of a denoiser's class."""
    found = FAMILIES.get(kind)
    if found is not None:
        return found
    return UNET if "UNet" in kind else UNKNOWN
