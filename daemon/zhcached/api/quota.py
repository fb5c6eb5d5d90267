"""How much of one thing each user may have at once."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Generator

from zhcache.errors import Busy


class Quota:
    """Counts what each user has open. Thread-safe.

    Args:
        what: Named in the refusal, as in "too many imports at once".
        each: The most one user may have.
        all_users: The most there may be of it.
    """

    def __init__(self, what: str, each: int, all_users: int | None = None) -> None:
        self._what = what
        self._each = each
        self._all = all_users
        self._lock = threading.Lock()
        self._open: Counter[int] = Counter()

    def take(self, uid: int) -> None:
        """Takes one place, to be given back by ``leave``.

        Raises:
            Busy: There is none.
        """
        with self._lock:
            full = self._all is not None and self._open.total() >= self._all
            if full or self._open[uid] >= self._each:
                raise Busy(
                    "too many {what} at once",
                    hint="wait for some to end; one user may have {each}",
                    what=self._what,
                    each=self._each,
                )
            self._open[uid] += 1

    def leave(self, uid: int) -> None:
        """Gives one place back."""
        with self._lock:
            self._open[uid] -= 1
            if not self._open[uid]:
                del self._open[uid]

    @contextlib.contextmanager
    def held(self, uid: int) -> Generator[None]:
        """Holds a place for as long as the block lasts.

        Raises:
            Busy: There is none.
        """
        self.take(uid)
        try:
            yield
        finally:
            self.leave(uid)
