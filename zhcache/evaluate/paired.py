"""How far apart two images are that should be the same: same prompt, same seed, other weights.

Images are tensors of shape (channels, height, width) with values from 0 to 255.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from zhcache.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

PEAK = 255.0
WINDOW = 11
SIGMA = 1.5


def pixels(image: Image) -> torch.Tensor:
    """Returns an image as float64 of shape (3, height, width), values 0 to 255."""
    rgb = image.convert("RGB")
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return flat.view(rgb.height, rgb.width, 3).permute(2, 0, 1).double()


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the peak signal-to-noise ratio in dB, infinite for equal images.

    Raises:
        UsageError: They differ in shape.
    """
    _check_alike(one, other)
    error = float(torch.mean((one - other) ** 2))
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def ssim(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the mean structural similarity over windows and channels; 1 for equal images.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE TIP 13(4), 2004: Gaussian windows of 11 pixels, sigma 1.5, K1 0.01,
    K2 0.03, whole windows only.

    Raises:
        UsageError: They differ in shape, or are smaller than a window.
    """
    _check_alike(one, other)
    if min(one.shape[-2:]) < WINDOW:
        raise UsageError(
            "images of {width}x{height} pixels are too small to compare",
            hint="both sides need {least} pixels or more",
            width=one.shape[-1],
            height=one.shape[-2],
            least=WINDOW,
        )
    # Channel by channel: a large picture's sums take many times its own memory.
    each = [_similar(a, b) for a, b in zip(one.unsqueeze(1), other.unsqueeze(1), strict=True)]
    return sum(each) / len(each)


def _similar(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the mean over the windows of one channel, (1, height, width)."""
    stable_mean, stable_spread = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_one, mean_other = _smoothed(one), _smoothed(other)
    spread_one = _smoothed(one * one) - mean_one**2
    spread_other = _smoothed(other * other) - mean_other**2
    common = _smoothed(one * other) - mean_one * mean_other
    similar = (2 * mean_one * mean_other + stable_mean) * (2 * common + stable_spread)
    scale = (mean_one**2 + mean_other**2 + stable_mean) * (
        spread_one + spread_other + stable_spread
    )
    return float(torch.mean(similar / scale))


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the cosine between two tensors taken as one vector each; nan where one is zero.

    Raises:
        UsageError: They differ in shape.
    """
    _check_alike(one, other)
    a, b = one.double().flatten(), other.double().flatten()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size else math.nan


def _smoothed(image: torch.Tensor) -> torch.Tensor:
    at = torch.arange(WINDOW, dtype=image.dtype) - WINDOW // 2
    weights = torch.exp(-(at**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    channels = image.unsqueeze(1)
    rows = functional.conv2d(channels, weights.view(1, 1, 1, -1))
    return functional.conv2d(rows, weights.view(1, 1, -1, 1)).squeeze(1)


def _check_alike(one: Any, other: Any) -> None:
    if one.shape != other.shape:
        raise UsageError(
            "images of different shapes are not compared: {one} and {other}",
            hint="make both with the same size",
            one=tuple(one.shape),
            other=tuple(other.shape),
        )
