"""Distances between two sets of features: FID, KID, CMMD. Pure, in float64, without any state.

Features are arrays of shape (pictures, dimensions): tensors, numpy arrays or nested lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from zhcache.errors import UsageError
from zhcache.evaluate.bootstrap import SEEDS
from zhcache.evaluate.measure import note
from zhcache.i18n import mark
from zhcache.protocol.sources import Phrase

PUBLISHED_DIMENSIONS = 2048
"""Of the features that published FIDs are made of: Inception's last pooling layer."""
LEAST_FOR_FID = 10_000
KID_SUBSET = 1000
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0

_DOUBLE = torch.float64
_BLOCK = 1024
"""Rows of a kernel matrix that are in memory at a time."""

Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Estimate(NamedTuple):
    """A distance and how far it may be off.

    Attributes:
        value: The distance; unbiased ones may be below zero.
        error: Its standard error by the jackknife, which takes pictures for independent draws; of
            subsets their standard deviation. None where there are too few pictures.
    """

    value: float
    error: float | None


def fid(real: Any, generated: Any) -> float:
    """Returns the Fréchet distance between the Gaussians that fit the two sets.

    The trace of the root of the covariances' product is the sum of the singular values of the
    product of their factors: no matrix root, nothing imaginary, exact for singular covariances.

    Source: Heusel et al., "GANs trained by a two time-scale update rule", NeurIPS 2017; the trace:
    Mathiasen and Hvilshøj, "Backpropagating through Fréchet Inception Distance", 2020.

    Raises:
        UsageError: A set is no features, or has fewer than two, or they do not fit each other.
    """
    one, other = _checked(real, generated)
    apart = torch.sum((one.mean(0) - other.mean(0)) ** 2)
    a, b = _factor(one), _factor(other)
    shared = torch.linalg.svdvals(a @ b.T).sum()
    # Rounding alone takes equal sets below zero.
    return max(float(apart + (a**2).sum() + (b**2).sum() - 2 * shared), 0.0)


def fid_remarks(real: Any, generated: Any) -> list[Phrase]:
    """Returns what keeps the FID of these features from meaning what published ones mean.

    How far too high it is depends on the features as well, so two halves of ``real`` say it.
    """
    is_few = min(len(real), len(generated)) < LEAST_FOR_FID
    halves = fid(real[::2], real[1::2]) if is_few and len(real) >= 4 else None
    return fid_notes(len(real), len(generated), real.shape[1], halves)


def fid_notes(
    real: int, generated: int, dimensions: int, halves: float | None = None
) -> list[Phrase]:
    """Returns what to beware of in an FID of so many pictures; ``halves``: that of one's halves."""
    found: list[Phrase] = []
    least = min(real, generated)
    if least < LEAST_FOR_FID:
        found.append(_few(least, real, halves))
    if real != generated:
        found.append(
            note(
                mark("FID depends on the number of pictures: {real} and {generated} are not equal"),
                real=real,
                generated=generated,
            )
        )
    if dimensions != PUBLISHED_DIMENSIONS:
        found.append(
            note(
                mark(
                    "these features have {dimensions} dimensions, those of published FIDs"
                    " {published}: compare it with FIDs of this extractor alone"
                ),
                dimensions=dimensions,
                published=PUBLISHED_DIMENSIONS,
            )
        )
    if least <= dimensions:
        found.append(
            note(
                mark(
                    "{count} pictures are too few for a covariance of {dimensions} dimensions:"
                    " it is singular"
                ),
                count=least,
                dimensions=dimensions,
            )
        )
    return found


def _few(least: int, real: int, halves: float | None) -> Phrase:
    if halves is None:
        text = mark("FID of {count} pictures is far too high; take {least} or more, or KID or CMMD")
        return note(text, count=least, least=LEAST_FOR_FID)
    text = mark(
        "FID of {count} pictures is far too high: one set's own halves, of {half} pictures, are"
        " {halves} apart instead of 0; take {least} or more, or KID or CMMD"
    )
    return note(text, count=least, half=real // 2, halves=f"{halves:.4g}", least=LEAST_FOR_FID)


def kid(
    real: Any,
    generated: Any,
    *,
    subsets: int | None = None,
    subset_size: int = KID_SUBSET,
    seed: int = 0,
) -> Estimate:
    """Returns the kernel distance: the unbiased squared MMD with the kernel (x·y / d + 1)³.

    Source: Bińkowski et al., "Demystifying MMD GANs", ICLR 2018.

    Args:
        real: Features of one set.
        generated: Features of the other.
        subsets: None takes all pictures at once, which spreads least. A number takes the mean over
            so many random subsets, as published, which is 100 of 1000 pictures each.
        subset_size: Pictures of each subset.
        seed: Of the choice of subsets.

    Raises:
        UsageError: A set is no features, or has fewer than two, or fewer than a subset.
    """
    one, other = _checked(real, generated)
    if subsets is None:
        return _mmd(_cubic, one, other)
    if subsets < 1 or not 2 <= subset_size <= min(len(one), len(other)):
        raise UsageError(
            "{subsets} subsets of {size} pictures cannot be had of {real} and {generated}",
            hint="take smaller subsets, or none: then all pictures count at once",
            subsets=subsets,
            size=subset_size,
            real=len(one),
            generated=len(other),
        )
    chance = torch.Generator().manual_seed(seed % SEEDS)
    found = torch.tensor(
        [
            _mmd(
                _cubic,
                one[torch.randperm(len(one), generator=chance)[:subset_size]],
                other[torch.randperm(len(other), generator=chance)[:subset_size]],
            ).value
            for _ in range(subsets)
        ],
        dtype=_DOUBLE,
    )
    return Estimate(float(found.mean()), float(found.std()) if subsets > 1 else None)


def cmmd(real: Any, generated: Any, *, is_biased: bool = False) -> Estimate:
    """Returns 1000 times the squared MMD of features of length 1, with a Gaussian kernel, sigma 10.

    Source: Jayasumana et al., "Rethinking FID", CVPR 2024: features of CLIP ViT-L/14 at 336
    pixels, the unbiased estimator. The code published with it computes the biased one.

    Args:
        real: Features of one set.
        generated: Features of the other.
        is_biased: Computes what the published code does.

    Raises:
        UsageError: A set is no features, or has fewer than two, or they do not fit each other.
    """
    one, other = _checked(real, generated)
    a, b = torch.nn.functional.normalize(one), torch.nn.functional.normalize(other)
    found = _mmd(_gaussian, a, b, is_biased=is_biased)
    error = None if found.error is None else found.error * CMMD_SCALE
    return Estimate(found.value * CMMD_SCALE, error)


def _cubic(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one @ other.T / one.shape[1] + 1) ** 3


def _gaussian(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    lengths = (one**2).sum(1)[:, None] + (other**2).sum(1)[None, :]
    return torch.exp(-(lengths - 2 * one @ other.T) / (2 * CMMD_SIGMA**2))


def _mmd(
    kernel: Kernel, one: torch.Tensor, other: torch.Tensor, *, is_biased: bool = False
) -> Estimate:
    """Returns the squared MMD. Source: Gretton et al., JMLR 13, 2012, eq. 3 and 5."""
    n, m = len(one), len(other)
    within, diagonal = _within(kernel, one)
    within_other, diagonal_other = _within(kernel, other)
    rows, columns = _between(kernel, one, other)
    if is_biased:
        total = (within.sum() + diagonal) / n**2 + (within_other.sum() + diagonal_other) / m**2
        return Estimate(float(total - 2 * rows.sum() / (n * m)), None)
    here, there = within.sum() / (n * (n - 1)), within_other.sum() / (m * (m - 1))
    value = here + there - 2 * rows.sum() / (n * m)
    if min(n, m) < 3:
        return Estimate(float(value), None)
    without = _left_out(within, n) + there - 2 * (rows.sum() - rows) / ((n - 1) * m)
    without_other = here + _left_out(within_other, m) - 2 * (rows.sum() - columns) / (n * (m - 1))
    spread = (n - 1) * without.var(correction=0) + (m - 1) * without_other.var(correction=0)
    return Estimate(float(value), math.sqrt(float(spread)))


def _left_out(sums: torch.Tensor, n: int) -> torch.Tensor:
    return (sums.sum() - 2 * sums) / ((n - 1) * (n - 2))


def _within(kernel: Kernel, one: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Returns the sums of the kernel matrix's rows without its diagonal, and the diagonal's sum."""
    sums: list[torch.Tensor] = []
    diagonal = 0.0
    for start in range(0, len(one), _BLOCK):
        block = kernel(one[start : start + _BLOCK], one)
        own = block[:, start : start + _BLOCK].diagonal()
        sums.append(block.sum(1) - own)
        diagonal += float(own.sum())
    return torch.cat(sums), diagonal


def _between(
    kernel: Kernel, one: torch.Tensor, other: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the sums of the kernel matrix's rows and of its columns."""
    rows: list[torch.Tensor] = []
    columns = torch.zeros(len(other), dtype=one.dtype)
    for start in range(0, len(one), _BLOCK):
        block = kernel(one[start : start + _BLOCK], other)
        rows.append(block.sum(1))
        columns += block.sum(0)
    return torch.cat(rows), columns


def _factor(features: torch.Tensor) -> torch.Tensor:
    """Returns R, of at most as many rows as columns, with RᵀR the covariance."""
    n, dimensions = features.shape
    centred = features - features.mean(0)
    if n > dimensions:
        centred = torch.linalg.qr(centred, mode="r").R
    return centred / math.sqrt(n - 1)


def _checked(real: Any, generated: Any) -> tuple[torch.Tensor, torch.Tensor]:
    one, other = _features(real, "real"), _features(generated, "generated")
    if one.shape[1] != other.shape[1]:
        raise UsageError(
            "features of {one} and of {other} dimensions are not compared",
            hint="take both from one extractor",
            one=one.shape[1],
            other=other.shape[1],
        )
    return one, other


def _features(given: Any, name: str) -> torch.Tensor:
    try:
        # Numbers of Python would become float32 on their way.
        array = given if isinstance(given, torch.Tensor) else torch.as_tensor(given, dtype=_DOUBLE)
        array = array.detach().to("cpu", _DOUBLE)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError("{name} are no features: {reason}", name=name, reason=error) from error
    if array.ndim != 2 or len(array) < 2 or array.shape[1] < 1:
        raise UsageError(
            "{name} has the shape {shape}, features have (pictures, dimensions)",
            hint="a distance between sets needs two pictures of each at least",
            name=name,
            shape=tuple(array.shape),
        )
    if not bool(torch.isfinite(array).all()):
        raise UsageError(
            "{name} has features that are not finite",
            hint="look at what the extractor gives for each picture",
            name=name,
        )
    return array
