"""The digest of an ingest, which runs along with whoever writes at its frontier.

Bytes that arrived ahead of it are read back from the page cache in bounded steps, by whoever
writes next, so that no connection starves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from zhcached.store.digest import READ_STEP, ContentDigest, Promise

CATCH_UP: Final = 4 << 20


class Frontier:
    """Hashes bytes in order that come in any. One thread at a time moves it on.

    ``at`` is the offset up to which bytes are hashed, ``is_moving`` whether a thread hashes now;
    both are to be read under ``changed``, which is notified when either has changed.

    Args:
        promise: For which digests the bytes are hashed.
        changed: The ingest's lock and condition.
        known_to: Returns where what was received from an offset on ends; called under ``changed``.
        read: Fills a buffer from an offset on and returns the bytes read, one at the least.
    """

    def __init__(
        self,
        promise: Promise,
        changed: threading.Condition,
        *,
        known_to: Callable[[int], int],
        read: Callable[[memoryview, int], int],
    ) -> None:
        self._promise = promise
        self._changed = changed
        self._known_to = known_to
        self._read = read
        self._buffer: memoryview | None = None
        self.is_moving = False
        self.restart()

    def restart(self) -> None:
        """Begins anew: what was hashed may become other bytes. While nobody moves it on."""
        self.digest = ContentDigest(self._promise.size, want_git=self._promise.git_sha1 is not None)
        self.at = 0

    def start(self) -> bool:
        """Tells, under ``changed``, whether the caller is to move it on now, by ``move``."""
        if self.is_moving or self._known_to(self.at) == self.at:
            return False
        self.is_moving = True
        return True

    def move(self, view: memoryview | None, offset: int, budget: int = CATCH_UP) -> None:
        """Moves on by ``view``, bytes that were received at ``offset``, then by reading.

        Args:
            view: May be None; then all is read.
            offset: Where ``view`` belongs.
            budget: How many bytes are read back at about the most.

        Raises:
            ZhcacheError: The disk failed.
        """
        at = self.at
        try:
            if view is not None and offset <= at < offset + len(view):
                self.digest.update(view[at - offset :])
                at = offset + len(view)
            while budget > 0:
                with self._changed:
                    self.at = at
                    known = self._known_to(at)
                if known == at:
                    break
                got = self._read_on(at, min(known - at, READ_STEP))
                at += got
                budget -= got
        finally:
            with self._changed:
                self.at = at
                self.is_moving = False
                self._changed.notify_all()

    def _read_on(self, at: int, length: int) -> int:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(READ_STEP))
        got = self._read(self._buffer[:length], at)
        self.digest.update(self._buffer[:got])
        return got
