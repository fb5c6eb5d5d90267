"""What was measured: a number that carries how it came about and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zhcache.errors import fill
from zhcache.protocol.sources import Phrase


@dataclass(frozen=True)
class Interval:
    """Where a mean or a median lies, with ``level`` confidence.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        level: Such as 0.95.
        method: ``percentile`` or ``bca``.
        count: How many independent values it rests on.
    """

    low: float
    high: float
    level: float
    method: str
    count: int


class Measure(float):
    """A number, and beside it what it means.

    Attributes:
        metric: What was measured, as the command line calls it.
        values: One for each picture or pair; empty for distances between sets.
        interval: Of the number, by bootstrap; None where it was not asked for or cannot be.
        error: Standard error of a distance between sets; None where it is not known.
        extractor: What looked at the pictures: ``OWNER/NAME@COMMIT``, or a callable's name.
        remarks: What to beware of, in English.
    """

    metric: str
    values: tuple[float, ...]
    interval: Interval | None
    error: float | None
    extractor: str | None
    notes: tuple[Phrase, ...]

    def __new__(
        cls,
        value: float = math.nan,
        *,
        metric: str = "",
        values: Sequence[float] = (),
        interval: Interval | None = None,
        error: float | None = None,
        extractor: str | None = None,
        notes: Sequence[Phrase] = (),
    ) -> Measure:
        """Makes one; ``notes`` are the remarks as templates, for whoever translates them."""
        made = super().__new__(cls, value)
        made.metric = metric
        made.values = tuple(values)
        made.interval = interval
        made.error = error
        made.extractor = extractor
        made.notes = tuple(notes)
        return made

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to beware of, in English."""
        return tuple(fill(note.template, note.values) for note in self.notes)


def note(template: str, **values: object) -> Phrase:
    """Returns a remark; its template is marked where it is written."""
    return Phrase(template=template, values={name: str(value) for name, value in values.items()})
