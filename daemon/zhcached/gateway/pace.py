"""One rate for all clients together. Lives on the gateway's loop."""

from __future__ import annotations

import asyncio

from zhcached.clock import Clock

SLICE = 128 * 2**10
"""Bytes that one client may take in one turn; small, so that many take turns."""

BURST_S = 0.1


class Pace:
    """Hands out bytes at a rate, in the order in which they are asked for.

    Args:
        rate: Bytes per second; 0 is no limit, and costs nothing.
        clock: The time.
    """

    def __init__(self, rate: int, clock: Clock) -> None:
        self.rate = rate
        self._clock = clock
        self._next = 0.0
        self._turn = asyncio.Lock()

    async def take(self, count: int) -> int:
        """Returns how many of ``count`` bytes may be sent now, having waited for them."""
        if not self.rate:
            return count
        count = min(count, SLICE)
        async with self._turn:
            now = self._clock.monotonic()
            self._next = max(self._next, now - BURST_S)
            if self._next > now:
                await asyncio.sleep(self._next - now)
            self._next += count / self.rate
        return count
