"""How far apart two pictures look to a vision model: a distance of the kind of LPIPS, not LPIPS.

LPIPS takes channels of AlexNet or VGG, weighted by what people said of pairs; those weights are not
used here. This is its form with all weights equal, over the layers of any model: features of unit
length at each position, the squared distance there, its mean over positions, then over layers.
Numbers are compared with those of the same model alone.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018, eq. 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zhcache.errors import UsageError
from zhcache.evaluate.features import Extractor, Progress, batches
from zhcache.evaluate.pairs import Pair

_AT_ONCE = 8
"""Pairs whose maps are in memory together: all layers of a large model have 58 MiB a picture."""
_LEAST = 1e-10
"""Added to lengths, as LPIPS does, so that positions without any feature stay finite."""


def between(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the distance of each image to its counterpart, from 0 to 4, of shape (images,).

    Args:
        one: Feature maps, each (images, positions, channels).
        other: Those of the counterparts, of the same shapes.

    Raises:
        UsageError: The shapes differ.
    """
    if [a.shape for a in one] != [b.shape for b in other] or not one:
        raise UsageError(
            "feature maps of different shapes are not compared: {one} and {other}",
            hint="make both pictures with the same size",
            one=[tuple(a.shape) for a in one],
            other=[tuple(b.shape) for b in other],
        )
    each = [((_unit(a) - _unit(b)) ** 2).sum(-1).mean(-1) for a, b in zip(one, other, strict=True)]
    return torch.stack(each).mean(0)


def distances(
    pairs: Sequence[Pair], extractor: Extractor, progress: Progress = lambda _: None
) -> list[float]:
    """Returns how far apart the pictures of each pair are."""
    found: list[float] = []
    for batch in batches(pairs, _AT_ONCE):
        read = [(pair.one.read(), pair.other.read()) for pair in batch]
        each = [0.0] * len(read)
        # What is at hand of a user's need not resize, and takes pictures of one size together.
        sizes = {(one.size, other.size) for one, other in read}
        for size in sizes:
            alike = [n for n, (one, other) in enumerate(read) if (one.size, other.size) == size]
            apart = between(
                extractor.layers([read[n][0] for n in alike]),
                extractor.layers([read[n][1] for n in alike]),
            )
            for number, value in zip(alike, apart.tolist(), strict=True):
                each[number] = value
        found += each
        progress(len(batch))
    return found


def _unit(features: torch.Tensor) -> torch.Tensor:
    return features.double() / (features.double().norm(dim=-1, keepdim=True) + _LEAST)
