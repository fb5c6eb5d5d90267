"""sqlite-utils, without what it imports on the side.

It imports numpy and pandas where they are installed, for column types that we have none of:
160 ms of the daemon's start and 20 MB that stay. A name that stands in ``sys.modules`` as None
cannot be imported, and sqlite-utils goes on without it.
"""

from __future__ import annotations

import sys

_UNWANTED = [name for name in ("numpy", "pandas") if name not in sys.modules]

sys.modules.update(dict.fromkeys(_UNWANTED))  # pyright: ignore[reportArgumentType, reportCallIssue]
try:
    from sqlite_utils import Database
finally:
    for name in _UNWANTED:
        del sys.modules[name]

__all__ = ["Database"]
