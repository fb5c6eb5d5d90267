"""The upkeep of what is warm: what is over goes, what the system took comes back."""

from __future__ import annotations

import asyncio

from zhcached.residency.door import Residency

EXPIRE_EVERY_S = 0.5
REFRESH_EVERY_S = 2.0


class Upkeep:
    """Tends what is warm until it is cancelled; threads under way end with ``Residency.close``."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency

    async def run(self) -> None:
        """Goes on until cancelled."""
        # Reading takes long, and what is over must not wait for it.
        async with asyncio.TaskGroup() as group:
            group.create_task(self._expire())
            group.create_task(self._read())

    async def _expire(self) -> None:
        while True:
            await asyncio.to_thread(self._residency.expire)
            await asyncio.sleep(EXPIRE_EVERY_S)

    async def _read(self) -> None:
        await asyncio.to_thread(self._residency.restore)
        while True:
            await asyncio.to_thread(self._residency.refresh)
            await asyncio.sleep(REFRESH_EVERY_S)
