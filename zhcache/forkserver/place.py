"""Where servers listen: a folder that belongs to the user alone, on this machine.

A socket on a home that other machines share would be found there and lead nowhere, so the folder
is the session's run-time folder or one below the machine's temporary one, whose owner is checked:
anybody may have made it first.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from zhcache.errors import NotPermitted, ZhcacheError


def folder(environ: Mapping[str, str]) -> Path:
    """Returns the folder of sockets, locks and logs; made if it is not there.

    Raises:
        NotPermitted: It is somebody else's, or open to others.
        ZhcacheError: It cannot be made.
    """
    if (runtime := environ.get("XDG_RUNTIME_DIR")) and Path(runtime).is_dir():
        path = Path(runtime) / "zhcache-exec"
    else:
        path = Path(tempfile.gettempdir()) / f"zhcache-exec-{os.geteuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise ZhcacheError(
            "the folder {path} cannot be made: {reason}",
            hint="set XDG_RUNTIME_DIR to a folder of your own",
            path=path,
            reason=error.strerror,
        ) from error
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not is_ours or status.st_mode & 0o077:
        raise NotPermitted(
            "{path} is not a folder that is open to you alone",
            hint="remove it, or set XDG_RUNTIME_DIR to a folder of your own",
            path=path,
        )
    return path


def socket_of(place: Path, key: str) -> Path:
    """Returns where the server with this key listens."""
    return place / f"{key}.sock"


def lock_of(place: Path, key: str) -> Path:
    """Returns the file that the server with this key holds locked while it lives."""
    return place / f"{key}.lock"


def log_of(place: Path, key: str) -> Path:
    """Returns the file that gets what the server itself says."""
    return place / f"{key}.log"
