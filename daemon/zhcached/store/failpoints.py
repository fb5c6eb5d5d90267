"""Named points at which a test may kill the daemon or make the disk fail.

``ZHCACHE_FAILPOINTS="commit.after_rename=kill,journal.sync=eio"`` is read once, at import. With
the variable unset a point costs one look at an empty dict. Every point of the store stands in
``NAMES``, so that a crash test can go through all of them and a misspelt one is refused.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Final

NAMES: Final = (
    "ingest.write",
    "draft.write",
    "journal.before_data_sync",
    "journal.data_sync",
    "journal.after_data_sync",
    "journal.after_line",
    "commit.before_digest",
    "commit.after_digest",
    "commit.after_chmod",
    "commit.fsync",
    "commit.after_fsync",
    "commit.after_rename",
    "commit.after_dir_fsync",
    "commit.after_ingest_removed",
    "commit.after_record",
    "publish.before_manifest",
    "publish.after_manifest",
    "publish.after_rows",
    "publish.after_view_blobs",
    "publish.after_view_tree",
    "publish.after_view",
    "publish.after_ref",
    "remove.after_mark",
    "remove.after_refs",
    "remove.after_view",
    "remove.after_manifest",
    "remove.after_rows",
    "gc.after_plan",
    "gc.after_unlink",
    "gc.after_rows",
)
_ERRORS: Final = {"enospc": errno.ENOSPC, "eio": errno.EIO}
_SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def parse(text: str) -> dict[str, str]:
    """Returns the action of each point armed by ``text``, ``name=action`` joined by commas.

    Raises:
        ValueError: Unknown point or action.
    """
    armed: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        name, _, action = item.partition("=")
        if name not in NAMES or action not in _ERRORS | _SIGNALS:
            raise ValueError(f"ZHCACHE_FAILPOINTS: {item!r} is not a known point=action")
        armed[name] = action
    return armed


ARMED: Final = parse(os.environ.get("ZHCACHE_FAILPOINTS", ""))


def hit(name: str) -> None:
    """Does what ``name`` is armed with: nothing, a signal to this process, or an OSError.

    Raises:
        OSError: The point is armed with ``enospc`` or ``eio``.
    """
    if not ARMED:
        return
    action = ARMED.get(name)
    if action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[action])
    elif action in _ERRORS:
        number = _ERRORS[action]
        raise OSError(number, os.strerror(number), f"failpoint {name}")
