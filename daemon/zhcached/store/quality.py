"""What was measured of variants, kept beside their manifests.

Nothing is decided by it, so a record that is lost or damaged is as good as none.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from zhcache.protocol.names import RepoId
from zhcache.protocol.variants import Quality
from zhcached.store import files
from zhcached.store.layout import Layout


class Qualities:
    """The records of one store. Thread-safe: each is written whole.

    Args:
        layout: Where the store lies.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def keep(self, repo: RepoId, commit: str, quality: Quality) -> None:
        """Keeps what was measured of the variant that is ``commit``, in place of what was.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        path = self._path(repo, commit)
        with files.disk_errors(path.parent):
            path.parent.mkdir(mode=0o750, exist_ok=True)
        files.write_durably(path, msgspec.json.encode(quality))

    def of(self, repo: RepoId, commit: str) -> Quality | None:
        """Returns what was measured last, or None."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self._path(repo, commit).read_bytes(), type=Quality)
        return None

    def drop(self, repo: RepoId, commit: str) -> None:
        """Forgets it; the folder goes with its last record."""
        path = self._path(repo, commit)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()

    def _path(self, repo: RepoId, commit: str) -> Path:
        return self._layout.repo(repo) / "quality" / f"{commit}.json"
