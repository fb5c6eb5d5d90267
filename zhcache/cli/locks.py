"""Lock files as commands take them: ``--lock FILE``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from zhcache.errors import UsageError
from zhcache.protocol.messages import LockedRepo, LockFile


def read(file: Path | None) -> dict[str, LockedRepo]:
    """Returns what a lock file pins, by repository; nothing if none was given.

    Raises:
        UsageError: It is not a lock file.
    """
    if file is None:
        return {}
    try:
        lock = msgspec.json.decode(file.read_bytes(), type=LockFile)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            "{file} is not a lock file: {reason}",
            hint="zhcache lock OWNER/NAME > FILE",
            file=file,
            reason=error,
        ) from error
    return {locked.repo: locked for locked in lock.repos}


def of(repo: str, locked: Mapping[str, LockedRepo], file: Path | None) -> LockedRepo | None:
    """Returns what ``file`` pins of ``repo``, None if no file was given.

    Raises:
        UsageError: The file does not name it.
    """
    if file is None:
        return None
    if repo not in locked:
        raise UsageError(
            "the lock file {file} does not name {repo}",
            hint="zhcache lock {repo} > {file}",
            file=file,
            repo=repo,
        )
    return locked[repo]
