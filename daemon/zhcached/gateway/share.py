"""What each address may do in a minute."""

from __future__ import annotations

from dataclasses import dataclass, field

from zhcached.clock import Clock

WINDOW_S = 60.0
MAX_ADDRESSES = 10_000


@dataclass(slots=True)
class Share:
    """How much each address may do in a minute; 0 is any number. For one thread at a time."""

    limit: int
    clock: Clock
    _since: float = 0.0
    _counts: dict[str, int] = field(default_factory=dict[str, int])

    def take(self, address: str) -> float | None:
        """Counts one; returns after how many seconds to come again, if it is too many."""
        if not self.limit:
            return None
        now = self.clock.monotonic()
        # One window for all: forgetting is then one step, and memory is bounded.
        if now - self._since >= WINDOW_S or len(self._counts) > MAX_ADDRESSES:
            self._since = now
            self._counts.clear()
        count = self._counts[address] = self._counts.get(address, 0) + 1
        return None if count <= self.limit else max(1.0, self._since + WINDOW_S - now)
