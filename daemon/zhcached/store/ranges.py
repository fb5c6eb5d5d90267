"""Sets of byte offsets as sorted, disjoint, half-open intervals. Pure; not thread-safe."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of byte offsets. Touching intervals are joined, so equal sets have equal lists.

    Args:
        pairs: Intervals ``(start, end)``, in any order, overlapping or not.

    Raises:
        ValueError: An interval with ``start < 0`` or ``end < start``.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in pairs:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Adds ``start..end``; an empty interval adds nothing.

        Raises:
            ValueError: ``start < 0`` or ``end < start``.
        """
        _check(start, end)
        if start == end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        """Takes ``start..end`` out.

        Raises:
            ValueError: ``start < 0`` or ``end < start``.
        """
        _check(start, end)
        if start == end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        kept: list[tuple[int, int]] = []
        if self._starts[first] < start:
            kept.append((self._starts[first], start))
        if self._ends[last - 1] > end:
            kept.append((end, self._ends[last - 1]))
        self._starts[first:last] = [pair[0] for pair in kept]
        self._ends[first:last] = [pair[1] for pair in kept]

    def update(self, other: Iterable[tuple[int, int]]) -> None:
        """Adds every interval of ``other``."""
        for start, end in other:
            self.add(start, end)

    def subtract(self, other: Iterable[tuple[int, int]]) -> None:
        """Takes every interval of ``other`` out."""
        for start, end in other:
            self.remove(start, end)

    def gaps(self, size: int) -> Ranges:
        """Returns what of ``0..size`` is not in the set."""
        return self.gaps_within(0, size)

    def gaps_within(self, start: int, end: int) -> Ranges:
        """Returns what of ``start..end`` is not in the set."""
        missing = Ranges()
        at = start
        index = bisect_right(self._ends, start)
        while at < end and index < len(self._starts) and self._starts[index] < end:
            missing.add(at, max(at, self._starts[index]))
            at = self._ends[index]
            index += 1
        if at < end:
            missing.add(at, end)
        return missing

    def contains(self, start: int, end: int) -> bool:
        """Tells whether all of ``start..end`` is in the set."""
        return start >= end or self.first_gap(start) >= end

    def first_gap(self, start: int = 0) -> int:
        """Returns the first offset at or after ``start`` that is not in the set."""
        index = bisect_right(self._starts, start) - 1
        return max(start, self._ends[index]) if index >= 0 else start

    @property
    def total(self) -> int:
        """How many offsets are in the set."""
        return sum(self._ends) - sum(self._starts)

    def copy(self) -> Ranges:
        """Returns an equal set of its own."""
        twin = Ranges()
        twin._starts = self._starts.copy()
        twin._ends = self._ends.copy()
        return twin

    def pairs(self) -> list[tuple[int, int]]:
        """Returns the intervals in order."""
        return list(self)

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, int]]) -> Ranges:
        """Returns the set of ``pairs``; the inverse of ``pairs()``."""
        return cls(pairs)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __len__(self) -> int:
        return len(self._starts)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ranges):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"Ranges({self.pairs()})"


def _check(start: int, end: int) -> None:
    if start < 0 or end < start:
        raise ValueError(f"{start}..{end} is not an interval of offsets")
