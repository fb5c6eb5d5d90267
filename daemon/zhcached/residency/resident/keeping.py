"""Who keeps a resident pipeline warm: by having used it, or by a wish, and until when."""

from __future__ import annotations

import math

from zhcached.clock import Clock


class Keeping:
    """The last use and the wish of each user. Guarded by the instance's lock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[int, float] = {}
        self._used: dict[int, float] = {}

    def use(self, uid: int) -> None:
        """Notes that a client of a user uses it now."""
        self._used[uid] = self._clock.monotonic()

    @property
    def unused_s(self) -> float:
        """Seconds since the last use that counts; infinite where there is none."""
        return self._clock.monotonic() - max(self._used.values(), default=-math.inf)

    def want(self, uid: int, until: float | None) -> None:
        """Notes a wish; None is until it is taken back.

        It takes the place of the user's earlier wish, and of what his earlier use gave.
        """
        self._used.pop(uid, None)
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
