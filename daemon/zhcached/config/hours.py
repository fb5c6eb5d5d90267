"""What the configuration says of times of day, as it is at one moment. Pure but for the time zone.

All of it goes by the local time of day at the moment that is asked about. So a clock that is put
forward or back, by hand or for summer, changes what holds now and breaks nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zhcached.config.tables import WindowConfig


class Span(NamedTuple):
    """From one minute of the day to another, the last not included; over midnight if it is less.

    A span that ends where it begins is the whole day.
    """

    begin: int
    end: int

    def holds(self, minute: int) -> bool:
        """Tells whether the minute of the day lies within."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


def minute_of_day(wall_s: float) -> int:
    """Returns the local minute of the day, 0 to 1439, at a moment in seconds since the epoch."""
    local = time.localtime(wall_s)
    return local.tm_hour * 60 + local.tm_min


def parse_span(text: str) -> Span | None:
    """Returns what ``22:00-07:00`` means, None for nothing; both times were checked."""
    if not text:
        return None
    begin, _, end = text.partition("-")
    return Span(_parse(begin), _parse(end))


def is_open(hours: str, minute: int) -> bool:
    """Tells whether ``follow.hours`` hold at a minute of the day; none hold always."""
    span = parse_span(hours)
    return span is None or span.holds(minute)


class Rates:
    """The rate in bytes per second that holds at the moment of the call, 0 for none. Thread-safe.

    Args:
        rate: What holds outside of all windows.
        windows: In the order of the configuration; of several that hold the first counts.
        now: Seconds since the epoch.
    """

    def __init__(
        self, rate: int, windows: Sequence[WindowConfig], now: Callable[[], float]
    ) -> None:
        self._rate = rate
        self._windows = [(Span(_parse(w.begin), _parse(w.end)), w.rate) for w in windows]
        self._now = now
        self._kept = (-1, rate)

    def __call__(self) -> int:
        """Returns the rate; asked for every piece that comes, it looks once a second."""
        if not self._windows:
            return self._rate
        second = int(self._now())
        kept = self._kept
        if kept[0] != second:
            self._kept = kept = (second, self.at(minute_of_day(second)))
        return kept[1]

    def at(self, minute: int) -> int:
        """Returns the rate at a minute of the day."""
        return next((rate for span, rate in self._windows if span.holds(minute)), self._rate)


def _parse(text: str) -> int:
    hours, _, minutes = text.strip().partition(":")
    return int(hours) * 60 + int(minutes)
