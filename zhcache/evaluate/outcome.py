"""What a comparison found: the numbers as they are printed, and the pictures beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from zhcache.evaluate.pairs import Pair
from zhcache.protocol.sources import Phrase


class Row(msgspec.Struct, kw_only=True):
    """One measure of the two sets.

    Attributes:
        metric: Which.
        value: The number; of scores B's less A's. Infinite, in JSON null, for equal pictures.
        a: Of scores the mean of A.
        b: Of scores the mean of B.
        low: Lower bound of the interval.
        high: Upper bound.
        level: Of the interval.
        method: Of the interval.
        statistic: Of what over prompts the value is, ``mean`` or ``median``; None of sets.
        prompts: How many the value rests on; None of sets.
        error: Standard error of a distance between sets.
        by: The model or callable that looked: ``OWNER/NAME@COMMIT``.
    """

    metric: str
    value: float
    a: float | None = None
    b: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    method: str | None = None
    statistic: str | None = None
    prompts: int | None = None
    error: float | None = None
    by: str | None = None


class PairRow(msgspec.Struct, kw_only=True):
    """One pair; ``scores`` are A's and B's by judge."""

    name: str
    a: str
    b: str
    prompt: str | None = None
    seed: int | None = None
    psnr: float | None = None
    ssim: float | None = None
    distance: float | None = None
    scores: dict[str, tuple[float, float]] = {}


class Result(msgspec.Struct, kw_only=True):
    """What ``eval --json`` prints."""

    a: str
    b: str
    pictures_a: int
    pictures_b: int
    paired_by: str | None
    metrics: list[Row]
    pairs: list[PairRow]
    warnings: list[str]
    schema: int = 1


@dataclass
class Comparison:
    """What was found, and the pictures that it was found of.

    Attributes:
        result: All numbers, as ``zhcache eval --json`` prints them.
        pairs: In the order of ``result.pairs``.
        notes: ``result.warnings`` as templates, for whoever translates them.
    """

    result: Result
    pairs: list[Pair] = field(repr=False)
    notes: list[Phrase] = field(repr=False)

    def __getitem__(self, metric: str) -> Row:
        """Returns the first row of ``metric``."""
        return next(row for row in self.result.metrics if row.metric == metric)

    def html(self, path: str | Path, *, pictures: int = 50) -> None:
        """Writes a report that needs no other file, with pictures side by side."""
        from zhcache.evaluate.report import write

        write(self, Path(path), pictures)
