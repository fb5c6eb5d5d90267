"""How fast each plane sends, measured while it sends: over all jobs, files and connections at once.

A stretch of measuring begins when an answer does and ends after a second of transfer; silence
between two stretches is nobody's slowness.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from zhcached.clock import Clock
from zhcached.fetch.offer import Sender
from zhcached.jobs.asking.health import Health
from zhcached.sources.health import Answered, Delivered

STRETCH_S = 1.0
IDLE_S = 2.0


@dataclass(slots=True)
class _Stretch:
    began: float
    last: float
    bytes: int = 0
    unmeasured: int = 0
    """Of small files, whose time is the round trip's."""


class Lines:
    """The planes that are sending. Thread-safe; called for every piece that arrives.

    Args:
        health: Told of each stretch.
        clock: The time.
    """

    def __init__(self, health: Health, clock: Clock) -> None:
        self._health = health
        self._clock = clock
        self._lock = threading.Lock()
        self._sending: dict[Sender, _Stretch] = {}

    def answered(self, sender: Sender, seconds: float) -> None:
        """An answer that brings bytes has begun, ``seconds`` after it was asked for."""
        now = self._clock.monotonic()
        over: _Stretch | None = None
        with self._lock:
            stretch = self._sending.get(sender)
            if stretch is None or now - stretch.last > IDLE_S:
                over = stretch
                self._sending[sender] = _Stretch(now, now)
        self._health.observe(sender.source, Answered(seconds), sender.plane)
        self._tell(sender, over)

    def add(self, sender: Sender, count: int, *, measured: bool) -> None:
        """Bytes came; those of small files are counted and measure nothing."""
        now = self._clock.monotonic()
        with self._lock:
            stretch = self._sending.setdefault(sender, _Stretch(now, now))
            if measured:
                stretch.bytes += count
            else:
                stretch.unmeasured += count
            stretch.last = now
            if now - stretch.began < STRETCH_S:
                return
            self._sending[sender] = _Stretch(now, now)
        self._tell(sender, stretch)

    def settle(self) -> None:
        """Tells what has not been told yet; at the end of a job."""
        with self._lock:
            sending, self._sending = self._sending, {}
        for sender, stretch in sending.items():
            self._tell(sender, stretch)

    def _tell(self, sender: Sender, stretch: _Stretch | None) -> None:
        if stretch is None:
            return
        for count, seconds in (
            (stretch.bytes, stretch.last - stretch.began),
            (stretch.unmeasured, 0.0),
        ):
            if count:
                self._health.observe(sender.source, Delivered(count, seconds), sender.plane)
