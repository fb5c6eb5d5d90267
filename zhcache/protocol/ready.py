"""Types made ready for decoding before several threads decode them.

msgspec reads a type's annotations when it is first used, and shows the type to other threads before
it has read them: a thread that decodes the same type at that moment follows a null pointer, and the
process is gone (seen with msgspec 0.22, Python 3.11). Once a type was read it is safe.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec

_OURS = ("zhcache", "zhcached")

_lock = threading.Lock()
_ready: set[type[msgspec.Struct]] = set()


def make_ready() -> int:
    """Has msgspec read all our message types that are imported by now; returns how many were new.

    Call it before the threads are there that decode them. What was read before costs nothing.
    """
    with _lock:
        found = (kind for kind in _below(msgspec.Struct) if kind not in _ready)
        new = [kind for kind in found if kind.__module__.partition(".")[0] in _OURS]
        for kind in new:
            msgspec.json.Decoder(kind)
        _ready.update(new)
        return len(new)


def _below(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
