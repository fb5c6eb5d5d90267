"""What makes a load quick without changing what is loaded."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_inside = 0
_was_on = False


@contextlib.contextmanager
def paused_collector() -> Iterator[None]:
    """Inside the block Python's cyclic garbage collector does not run by itself.

    A load makes hundreds of thousands of objects that all stay, and the collector walks them, and
    all of torch's, again and again: half of the time of a load. Reference counts free as always.
    May be entered by several threads and within itself; the last one out turns it on again.
    """
    global _inside, _was_on  # noqa: PLW0603 - the collector is one for the process as well
    with _lock:
        if _inside == 0:
            _was_on = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _was_on:
                gc.enable()
