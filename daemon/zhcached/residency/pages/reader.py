"""Files of a snapshot into the page cache and kept there, by digest."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping

from zhcache.protocol.names import RepoPath
from zhcached.errors import StoreDamaged
from zhcached.residency.arena.contents import INDEX
from zhcached.residency.pages import pagecache
from zhcached.residency.pages.locks import Locks
from zhcached.sources.pipeline_files import components_of, read_by_from_pretrained
from zhcached.store import files as disk
from zhcached.store.blobs import Blobs
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store

POLL_S = 0.2

Report = Callable[[int, int, str], object]
"""Told the bytes done, those in all, and what is waited for; what it raises ends the work."""


class Reader:
    """Reads blobs into memory and locks them there. Thread-safe; ``read`` blocks for long.

    Args:
        blobs: The files.
        is_wanted: Tells whether a blob is to stay in memory.
    """

    def __init__(self, blobs: Blobs, is_wanted: Callable[[str], bool]) -> None:
        self._blobs = blobs
        self._is_wanted = is_wanted
        self._locks = Locks()
        # One snapshot is read at a time: two would only halve each other's speed on the disk.
        self._reading = threading.Lock()
        # Whether a blob is wanted must not change between the question and its lock.
        self._locking = threading.Lock()

    def read(self, files: Mapping[str, int], report: Report) -> None:
        """Reads what of ``files`` is not in memory, and locks what the system lets us lock.

        Raises:
            StoreDamaged: A file is gone or cut short.
            ZhcacheError: The disk failed.
        """
        total, done = sum(files.values()), 0

        def count(step: int) -> None:
            nonlocal done
            done += step
            report(done, total, "")

        while not self._reading.acquire(timeout=POLL_S):
            report(0, total, "another model is read before it")
        try:
            # The largest first: where not all may be locked, they are worth most.
            for sha256, size in sorted(files.items(), key=lambda item: -item[1]):
                self._read_file(sha256, size, count)
        finally:
            self._reading.release()

    def _read_file(self, sha256: str, size: int, count: Callable[[int], object]) -> None:
        try:
            fd = self._blobs.open(sha256)
        except OSError as error:
            raise StoreDamaged(reason=f"blob {sha256}: {error.strerror}") from error
        try:
            with disk.disk_errors(self._blobs.path(sha256)):
                pagecache.read_in(fd, size, count)
            with self._locking:
                if size and self._is_wanted(sha256):
                    self._locks.lock(sha256, fd, size)
        except EOFError as error:
            raise StoreDamaged(reason=f"blob {sha256}: {error}") from error
        finally:
            os.close(fd)

    def unlock(self, digests: Iterable[str]) -> None:
        """Lets those go that nobody wants any more."""
        for sha256 in digests:
            with self._locking:
                if not self._is_wanted(sha256):
                    self._locks.unlock(sha256)

    def are_locked(self, files: Mapping[str, int]) -> bool:
        """Whether none of the files can leave memory."""
        return all(self._locks.is_locked(sha256) for sha256, size in files.items() if size)

    def cached(self, files: Mapping[str, int]) -> int:
        """Returns how many bytes of the files are in memory now."""
        return sum(pagecache.cached_path(self._blobs.path(s), size) for s, size in files.items())

    def close(self) -> None:
        """Ends all locks."""
        self._locks.close()


def files_of(store: Store, manifest: Manifest) -> dict[str, int]:
    """Returns digest and size of each file that ``from_pretrained`` reads of a snapshot.

    Raises:
        StoreDamaged: Its index is gone.
    """
    by_path = {RepoPath(file.path): file for file in manifest.files}
    index = by_path.get(RepoPath(INDEX))
    try:
        named = components_of(store.blobs.path(index.sha256).read_bytes()) if index else None
    except OSError as error:
        raise StoreDamaged(reason=f"{INDEX} of {manifest.repo}: {error.strerror}") from error
    read = read_by_from_pretrained(by_path, components=named)
    return {by_path[path].sha256: by_path[path].size for path in read}
