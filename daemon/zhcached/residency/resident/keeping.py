"""Who asked for a resident pipeline to stay warm, and until when."""

from __future__ import annotations

import math

from zhcached.clock import Clock


class Keeping:
    """The wishes of users, one each. Guarded by the instance's lock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[int, float] = {}

    def want(self, uid: int, until: float | None) -> None:
        """Notes a wish, instead of the user's earlier one; None is until it is taken back."""
        self._until[uid] = math.inf if until is None else until

    def withdraw(self, uid: int) -> None:
        """Takes a user's wish back."""
        self._until.pop(uid, None)

    def clear(self) -> None:
        """Forgets all wishes."""
        self._until.clear()

    @property
    def until(self) -> float:
        """When the last of them is over, in seconds since the epoch; 0 where there are none."""
        return max(self._until.values(), default=0.0)

    @property
    def uids(self) -> list[int]:
        """Whose wishes hold now."""
        now = self._clock.wall()
        return sorted(uid for uid, until in self._until.items() if until > now)
