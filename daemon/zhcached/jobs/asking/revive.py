"""Sources that fell silent are asked again now and then, so that they come back by themselves.

One request each, on the metadata plane alone, later and later, and with jitter: all machines of a
lab lose a hub at the same moment and must not come back at the same moment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from zhcache.errors import ZhcacheError
from zhcached.clock import Clock
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.probe import Prober

LOOK_EVERY_S = 10.0
FIRST_S = 60.0
# Not later: failures halve in 600 s, and with one more each time they stay above what is "down";
# further apart the record would fade to "unknown" while the source is as dead as before.
LONGEST_S = 220.0

log = structlog.get_logger()


class Revival:
    """Asks silent sources again.

    Args:
        prober: Asks.
        health: Says who is silent.
        clock: The time.
        dice: Uniform in 0..1.
    """

    def __init__(
        self,
        prober: Prober,
        health: Health,
        clock: Clock,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._prober = prober
        self._health = health
        self._clock = clock
        self._dice = dice
        self._due: dict[str, float] = {}
        self._asked: dict[str, int] = {}

    async def run(self) -> None:
        """Goes on until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.to_thread(self.once)

    def once(self) -> list[str]:
        """Asks those whose turn it is and returns their names."""
        now = self._clock.monotonic()
        silent = self._health.silent()
        for name in set(self._due) - set(silent):
            del self._due[name]
            self._asked.pop(name, None)
        asked: list[str] = []
        for name in silent:
            due = self._due.setdefault(name, now + self._wait_s(0))
            if due > now:
                continue
            try:
                self._prober.look(name)
            except (ZhcacheError, OSError) as error:
                log.warning("sources.look_failed", source=name, error=str(error))
            asked.append(name)
            self._asked[name] = self._asked.get(name, 0) + 1
            self._due[name] = now + self._wait_s(self._asked[name])
        return asked

    def _wait_s(self, asked: int) -> float:
        return min(FIRST_S * 2 ** min(asked, 10), LONGEST_S) * (0.75 + self._dice() / 2)
