"""Libraries of others, loaded without what they bring along for what is not done here.

It is a third of what the daemon's start takes. A name that stands in ``sys.modules`` as None cannot
be imported, and a library for which it is optional goes on without.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Inside the block, nothing new that is called so can be imported."""
    absent: dict[str, Any] = {name: None for name in names if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def load() -> None:
    """Loads what else would bring the most with it, before another module asks for it."""
    # With rich, tracebacks are drawn for a terminal; lines of the log are JSON.
    with without("rich"):
        import structlog  # noqa: F401
    # Loaded, aiohttp's client reads all authorities of this machine; it is never used, and without
    # them would trust nobody.
    with _no_authorities():
        import aiohttp  # noqa: F401


@contextlib.contextmanager
def _no_authorities() -> Iterator[None]:
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)
