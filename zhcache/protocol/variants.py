"""Messages about variants: what is planned, made and measured of them."""

from __future__ import annotations

from typing import Literal

from zhcache.protocol.base import Message


class PlannedVariant(Message):
    """One variant of a dry run: what it is made of, and roughly how large it would be.

    ``state`` as in ``VariantResult``: what it would be.
    """

    state: Literal["made", "present", "published"]
    bytes: int
    sources: list[str]


class Quality(Message):
    """What a variant did to pictures, beside its source: same prompts, same seeds.

    Medians over the pairs, and the worst. ``psnr`` is in dB and None where the images are equal;
    ``latent_cosine`` is None where the pipeline tells no latents. ``seconds`` is for one image.
    """

    pairs: int
    psnr: float | None
    psnr_least: float | None
    ssim: float
    ssim_least: float
    latent_cosine: float | None
    latent_cosine_least: float | None
    seconds: float
    seconds_source: float
    device: str = ""
    steps: int | None = None
    width: int = 0
    height: int = 0
    measured: float = 0.0
    uid: int = -1


class QualityRequest(Message):
    """``POST /v1/quality``: what somebody measured, to be kept with the variant."""

    repo: str
    commit: str
    variant: str
    quality: Quality


class VariantResult(Message):
    """One variant made or found by a prefetch."""

    path: str
    bytes: int
    state: str
    quality: Quality | None = None


class VariantUse(Message):
    """One variant's share of the disk; ``bytes_own`` is what only it uses."""

    commit: str
    variant: str
    bytes: int
    bytes_own: int


class VariantPart(Message):
    """What became of a component that was converted.

    ``bytes_in`` and ``bytes_out`` are of its weights. ``max_abs`` and ``relative`` are the largest
    of its tensors' errors; ``overflow`` and ``nonfinite_in`` count values. ``kept`` says of modules
    that stayed wider why. Each tensor's own are in ``zhcache-variant.json``.
    """

    scheme: str
    bytes_in: int
    bytes_out: int
    max_abs: float
    relative: float
    overflow: int
    nonfinite_in: int
    kept: dict[str, str] = {}
