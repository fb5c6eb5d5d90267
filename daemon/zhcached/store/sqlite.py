"""sqlite-utils, without what it imports on the side.

It imports numpy and pandas where they are installed, for column types that we have none of:
160 ms of the daemon's start and 20 MB that stay.
"""

from __future__ import annotations

from zhcached.libraries import without

with without("numpy", "pandas"):
    from sqlite_utils import Database

__all__ = ["Database"]
