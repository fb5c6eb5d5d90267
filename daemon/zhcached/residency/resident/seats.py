"""How many resident pipelines each user has open, and how many leases that makes."""

from __future__ import annotations

from collections import Counter

from zhcache.errors import Busy
from zhcached.residency.resident.kinds import Kind

MAX_SEATS_PER_UID = 64


class Seats:
    """Counts open sessions. Guarded by the lock of ``Residents``."""

    def __init__(self) -> None:
        self._taken: Counter[tuple[str, str, int]] = Counter()

    def check(self, uid: int) -> None:
        """Refuses one more.

        Raises:
            Busy: The user has too many open.
        """
        count = sum(count for (_, _, owner), count in self._taken.items() if owner == uid)
        if count >= MAX_SEATS_PER_UID:
            raise Busy(
                "uid {uid} has {limit} resident pipelines open",
                hint="close some of them with zhcache.release(pipe)",
                uid=uid,
                limit=MAX_SEATS_PER_UID,
            )

    def take(self, kind: Kind, uid: int) -> None:
        """Counts a session of a user."""
        self._taken[kind.repo, kind.commit, uid] += 1

    def give_back(self, kind: Kind, uid: int) -> None:
        """Uncounts it."""
        self._taken[kind.repo, kind.commit, uid] -= 1
        self._taken = +self._taken

    def leases(self) -> Counter[tuple[str, str, int]]:
        """Returns how many leases sessions have, by repository, commit and uid."""
        return self._taken.copy()
