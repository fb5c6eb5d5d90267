"""How many files are on their way at once: a few large ones, and beside them many small ones.

A small file is a round trip and little else, so a repository of sixty configurations over a far
line takes as long as its round trips lie one after the other. They have a lane of their own, with
more of them under way. Still a hub is asked for so many at most, by all jobs together.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from zhcached.sources.trust import FileTrust

SMALL_BYTES = 2**20
SMALL_AT_ONCE = 16
_LOOK_S = 0.2


def lanes(files: Sequence[FileTrust]) -> tuple[list[FileTrust], list[FileTrust]]:
    """Returns the small files and the large ones, each the largest first. Pure.

    A long one begun last would leave the line to itself at the end.
    """
    ordered = sorted(files, key=lambda file: file.promise.size, reverse=True)
    return [f for f in ordered if is_small(f)], [f for f in ordered if not is_small(f)]


def is_small(file: FileTrust) -> bool:
    """Tells whether a file takes a round trip rather than the line."""
    return file.promise.size <= SMALL_BYTES


class Turns:
    """The requests for small files that each source has at once, at most. Thread-safe.

    Args:
        most: At one source.
    """

    def __init__(self, most: int = SMALL_AT_ONCE) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._free: dict[str, threading.Semaphore] = defaultdict(
            lambda: threading.Semaphore(self._most)
        )

    @contextmanager
    def one(self, source: str, check: Callable[[], None]) -> Generator[None]:
        """Waits for a turn at ``source`` and has it until the block ends; ``check`` may raise."""
        with self._lock:
            free = self._free[source]
        while not free.acquire(timeout=_LOOK_S):
            check()
        try:
            yield
        finally:
            free.release()
