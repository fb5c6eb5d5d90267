"""Deaths of workers: what clients are told of them, and after how many there is a rest."""

from __future__ import annotations

import math

from zhcache.errors import WorkerDied
from zhcached.clock import Clock
from zhcached.residency.resident.timeouts import Timeouts


class Crashes:
    """How often in a row the workers of an instance died. Guarded by the instance's lock.

    Args:
        repo: What they held.
        clock: Time.
        timeouts: How many are borne, and how long the rest is.
    """

    def __init__(self, repo: str, clock: Clock, timeouts: Timeouts) -> None:
        self._repo = repo
        self._clock = clock
        self._timeouts = timeouts
        self._count = 0
        self._last = ""
        self._rests_until = -math.inf

    @property
    def is_resting(self) -> bool:
        """Whether no worker is tried now."""
        return self._clock.monotonic() < self._rests_until

    def check_rested(self) -> None:
        """Refuses work during the rest.

        Raises:
            WorkerDied: It lasts still.
        """
        if self.is_resting:
            raise self._tired()

    def over(self) -> None:
        """Notes that a worker answered a call."""
        self._count = 0

    def another(self, how: str) -> WorkerDied | None:
        """Notes a death; returns what to tell those who wait where it was one too many."""
        self._last = how
        self._count += 1
        if self._count < self._timeouts.crashes:
            return None
        self._count = 0
        self._rests_until = self._clock.monotonic() + self._timeouts.rest
        return self._tired()

    def _tired(self) -> WorkerDied:
        return WorkerDied(
            "the worker of {repo} ended {count} times in a row, the last time: {how}",
            hint="see `zhcache logs`; it is tried again after {rest} seconds",
            repo=self._repo,
            count=self._timeouts.crashes,
            how=self._last,
            rest=self._timeouts.rest,
        )


def in_call(repo: str, how: str) -> WorkerDied:
    """Returns what the client is told whose call ran."""
    return WorkerDied(
        "the worker of {repo} ended during the call: {how}",
        hint="call again, a new worker starts; `zhcache logs` says more",
        repo=repo,
        how=how,
    )


def overdue(limit_s: float) -> WorkerDied:
    """Returns what the client is told whose call took too long."""
    return WorkerDied(
        "the call ran longer than {limit} seconds and was ended",
        hint="take fewer steps or smaller images, or raise residency.call_timeout",
        limit=limit_s,
    )
