"""How sure a mean over prompts is: bootstrap intervals, with prompts as what is drawn.

Images of one prompt are alike, so seeds are no independent samples: the values of one prompt become
one value first, and prompts are drawn with replacement, not images.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Sequence
from typing import Literal

from zhcache.errors import UsageError
from zhcache.evaluate import installed
from zhcache.evaluate.measure import Interval

Statistic = Literal["mean", "median"]
Method = Literal["percentile", "bca"]

RESAMPLES = 10_000
SEEDS = 2**64
"""How many seeds torch knows; those beyond begin again."""
_AT_ONCE = 2**22
"""Values that are drawn at a time."""


def by_prompt(
    values: Sequence[float], prompts: Sequence[Hashable], statistic: Statistic = "mean"
) -> list[float]:
    """Returns one value for each prompt, in the order in which prompts come first.

    Args:
        values: One for each image or pair.
        prompts: What each of them was made of.
        statistic: What becomes of the values of one prompt.
    """
    found: dict[Hashable, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        found.setdefault(prompt, []).append(value)
    return [_of(statistic, each) for each in found.values()]


def interval(
    values: Sequence[float],
    *,
    statistic: Statistic = "mean",
    method: Method | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Returns the bootstrap interval of a mean or median; None for fewer than two values.

    The same values and seed give the same interval.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 14.

    Args:
        values: One for each prompt.
        statistic: Of what.
        method: ``percentile``, or ``bca``, which corrects for bias and skew; by default ``bca`` for
            a mean and ``percentile`` for a median, of which the jackknife tells nothing.
        level: Of confidence.
        resamples: How often is drawn.
        seed: Of the drawing.

    Raises:
        UsageError: An option cannot be meant, or a value is not a number.
    """
    installed.check(("torch",))
    chosen: Method = method or ("bca" if statistic == "mean" else "percentile")
    _check(values, statistic, chosen, level, resamples)
    if len(values) < 2:
        return None
    drawn = _drawn(values, statistic, resamples, seed)
    at = ((1 - level) / 2, (1 + level) / 2)
    if chosen == "bca":
        at = _corrected(values, drawn, at)
    low, high = (_quantile(drawn, share) for share in at)
    return Interval(low, high, level, chosen, len(values))


def _drawn(values: Sequence[float], statistic: Statistic, resamples: int, seed: int) -> list[float]:
    """Returns the statistic of each resample, sorted."""
    import torch

    each = torch.tensor(values, dtype=torch.float64)
    chance = torch.Generator().manual_seed(seed % SEEDS)
    rows = max(_AT_ONCE // len(values), 1)
    found: list[float] = []
    while len(found) < resamples:
        shape = (min(rows, resamples - len(found)), len(values))
        sample = each[torch.randint(len(values), shape, generator=chance)]
        if statistic == "mean":
            found += sample.mean(1).tolist()
        else:
            ordered, half = sample.sort(1).values, len(values) // 2
            middle = (ordered[:, half] + ordered[:, (len(values) - 1) // 2]) / 2
            found += middle.tolist()
    return sorted(found)


def _corrected(
    values: Sequence[float], drawn: Sequence[float], at: tuple[float, float]
) -> tuple[float, float]:
    """Returns which shares of the resamples bound a BCa interval of a mean."""
    seen = statistics.fmean(values)
    below = sum(value < seen for value in drawn) + sum(value == seen for value in drawn) / 2
    off = [seen - value for value in values]
    cubes, squares = sum(x**3 for x in off), sum(x**2 for x in off)
    if squares == 0 or not 0 < below < len(drawn):
        return at
    normal = statistics.NormalDist()
    bias = normal.inv_cdf(below / len(drawn))
    # Leaving a value out moves the mean by what the value is off, up to a factor that cancels.
    skew = -cubes / (6 * squares**1.5)

    def share(wanted: float) -> float:
        z = bias + normal.inv_cdf(wanted)
        return normal.cdf(bias + z / (1 - skew * z))

    return share(at[0]), share(at[1])


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Returns a quantile of sorted values, of which some may be infinite."""
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high else low + (high - low) * (place - math.floor(place))


def _of(statistic: Statistic, values: Sequence[float]) -> float:
    return statistics.fmean(values) if statistic == "mean" else statistics.median(values)


def _check(
    values: Sequence[float], statistic: str, method: str, level: float, resamples: int
) -> None:
    is_known = statistic in ("mean", "median") and method in ("percentile", "bca")
    is_pair = not (statistic == "median" and method == "bca")
    if not is_known or not is_pair or not 0 < level < 1 or resamples < 1:
        raise UsageError(
            "no interval of a {statistic} by {method} with level {level} and {resamples} resamples",
            hint="mean or median; percentile, or bca for a mean; a level between 0 and 1",
            statistic=statistic,
            method=method,
            level=level,
            resamples=resamples,
        )
    if any(math.isnan(v) or (math.isinf(v) and statistic == "mean") for v in values):
        raise UsageError(
            "a {statistic} of values that are no finite numbers has no interval",
            hint="look at the pictures that they are of",
            statistic=statistic,
        )
