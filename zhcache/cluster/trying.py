"""Calls of a batch, made again until they are through: what ``retry`` judges, done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from zhcache.cluster.retry import verdict
from zhcache.errors import Cancelled

_PATIENCE_S = 600.0
"""How long calls are made later while none of the batch gets through at all."""

_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0

T = TypeVar("T")


class Trying:
    """The patience of one batch, which all its calls share. Thread-safe."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._came = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether nothing is tried again."""
        return self._is_over.is_set()

    def end(self) -> None:
        """Has calls that wait for their next try give up."""
        self._is_over.set()

    def came(self) -> None:
        """Notes that a call got through: so there is room now and then."""
        self._came = time.monotonic()

    def through(self, call: Callable[[], T]) -> T:
        """Returns what ``call`` returns, however often it must be made.

        Raises:
            Cancelled: The batch was ended before that.
            Exception: What it ended with at last.
        """
        tries, pause = 0, _PAUSE_S
        while True:
            tries += 1
            try:
                return call()
            except Exception as error:
                judged = verdict(error, tries)
                if judged == "later":
                    tries -= 1
                    is_hopeless = time.monotonic() - self._came > _PATIENCE_S
                else:
                    is_hopeless = judged == "give up"
                if is_hopeless:
                    raise
            if self._is_over.wait(pause):
                raise Cancelled("the batch was ended before this image was made")
            pause = min(2 * pause, _LONGEST_PAUSE_S)
