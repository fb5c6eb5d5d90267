"""For which repositories that are not public bytes of an ingest came.

An ingest is found by its digest, and a digest is no permission: whoever names one must not be shown
what comes in for others. What was received stays over restarts, so this is kept beside it.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

from zhcached.store import files

_PREFIX = "closed-"


def marked(folder: Path, repo: str | None) -> frozenset[str]:
    """Returns the repositories that are not public and that an ingest's bytes came for.

    Args:
        folder: Of the ingest.
        repo: One more, whose bytes are about to come; None if they come for a public one.

    Raises:
        NoSpace: No room.
        ZhcacheError: The disk failed.
    """
    with files.disk_errors(folder):
        if repo is not None:
            # A name alone: it is durable with the folder, and so when the journal is.
            (folder / f"{_PREFIX}{quote(repo, safe='')}").touch(0o600)
        names = [path.name for path in folder.glob(f"{_PREFIX}*")]
    return frozenset(unquote(name.removeprefix(_PREFIX)) for name in names)
