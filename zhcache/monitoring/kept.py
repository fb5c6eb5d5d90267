"""Samples kept in bounded memory: all of a short span, every second or fourth of a long one."""

from __future__ import annotations

from zhcache.monitoring.records import Sample

MAX_SAMPLES = 4096
MAX_ROWS = 65_536
"""Of processes in all samples together: some 20 MiB."""


class Kept:
    """The samples of a span, evenly spaced, whatever its length.

    When there are too many, every second one goes, and from then on only every second one that
    comes is kept: beginning and end stay, and the spacing is the same everywhere. Nothing that is
    counted or compared is lost by this: totals and peaks are of all samples.
    """

    def __init__(self, max_samples: int = MAX_SAMPLES, max_rows: int = MAX_ROWS) -> None:
        self._max_samples, self._max_rows = max_samples, max_rows
        self._samples: list[Sample] = []
        self._rows = 0
        self._count = 0
        self._stride = 1

    @property
    def count(self) -> int:
        """How many there were in all."""
        return self._count

    @property
    def samples(self) -> list[Sample]:
        """Those that are kept, oldest first."""
        return list(self._samples)

    def add(self, sample: Sample) -> None:
        """Takes one in, and lets others go where there are too many."""
        number, self._count = self._count, self._count + 1
        if number % self._stride:
            return
        self._samples.append(sample)
        self._rows += _rows(sample)
        while len(self._samples) > 2 and (
            len(self._samples) > self._max_samples or self._rows > self._max_rows
        ):
            self._stride *= 2
            self._samples = self._samples[::2]
            self._rows = sum(map(_rows, self._samples))


def _rows(sample: Sample) -> int:
    return 1 + len(sample.processes)
