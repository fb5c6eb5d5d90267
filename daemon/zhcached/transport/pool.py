"""Connections that wait for the next request: how many, how long, and never a broken one.

A hub decides by its redirects how many origins are visited, so what one of them leaves behind is
cleared away on behalf of any other, and there is a limit to all of them together.
"""

from __future__ import annotations

import threading

from zhcached.clock import Clock
from zhcached.transport.address import Origin
from zhcached.transport.wire import Wire

MAX_IDLE = 64
MAX_IDLE_PER_ORIGIN = 16
MAX_IDLE_S = 30.0


class Pool:
    """Idle connections by origin. Thread-safe; a wire taken belongs to its taker.

    Args:
        clock: Gives the present.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # In the order in which they were released, so the oldest of all come first.
        self._idle: list[tuple[float, Origin, Wire]] = []

    def __len__(self) -> int:
        return len(self._idle)

    def close(self) -> None:
        """Closes every idle connection."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, _, wire in idle:
            wire.close()

    def take(self, origin: Origin) -> Wire | None:
        """Returns the connection to ``origin`` that was used last, if one is still sound."""
        now = self._clock.monotonic()
        while True:
            with self._lock:
                places = (i for i, entry in enumerate(self._idle) if entry[1] == origin)
                newest = max(places, default=None)
                if newest is None:
                    return None
                since, _, wire = self._idle.pop(newest)
            if now - since < MAX_IDLE_S and wire.is_idle():
                return wire
            wire.close()

    def give(self, origin: Origin, wire: Wire, *, reusable: bool) -> None:
        """Keeps ``wire`` for the next request, or closes it; closes what has waited too long.

        Args:
            origin: Whose connection it is.
            wire: No longer used by the caller.
            reusable: Whether its last answer was read to the end and the server lets it live.
        """
        is_kept = reusable and wire.is_idle()
        if not is_kept:
            wire.close()
        now = self._clock.monotonic()
        with self._lock:
            if is_kept:
                self._idle.append((now, origin, wire))
            surplus = self._drop_surplus(origin, now)
        for dropped in surplus:
            dropped.close()

    def _drop_surplus(self, origin: Origin, now: float) -> list[Wire]:
        own = [wire for _, place, wire in self._idle if place == origin]
        too_many = set(own[:-MAX_IDLE_PER_ORIGIN])
        kept = [
            entry
            for entry in self._idle
            if now - entry[0] < MAX_IDLE_S and entry[2] not in too_many
        ][-MAX_IDLE:]
        staying = {wire for _, _, wire in kept}
        dropped = [wire for _, _, wire in self._idle if wire not in staying]
        self._idle = kept
        return dropped
