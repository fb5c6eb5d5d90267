"""Room promised before bytes come: the quota, the floor of free space, the reservations.

A download that cannot end for want of room must not begin. Counted against the quota are blobs,
partial downloads as they lie on disk, and what is reserved but not on disk yet; against the file
system's free space only the last.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from zhcache.errors import NoSpace
from zhcached.config import StoreConfig
from zhcached.store.layout import Layout

FreeBytes = Callable[[], int]


class Reservation:
    """Room for bytes that are not on disk yet. Ends with ``release`` or as a context manager."""

    def __init__(self, space: Space, size: int) -> None:
        self._space = space
        self._left = size

    def shrink(self, landed: int) -> None:
        """Says that ``landed`` of the bytes now take room on disk themselves."""
        self._left -= self._space.give_back(min(landed, self._left))

    def release(self) -> None:
        """Gives back what is left."""
        self.shrink(self._left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Space:
    """The ledger of one store. Thread-safe.

    Args:
        layout: Where the store lies.
        config: ``quota`` (0 = none) and ``min_free``, in bytes.
        blob_bytes: Returns the bytes of all blobs.
        free_bytes: Returns what the file system has free for us; for tests.
    """

    def __init__(
        self,
        layout: Layout,
        config: StoreConfig,
        blob_bytes: Callable[[], int],
        free_bytes: FreeBytes | None = None,
    ) -> None:
        self._layout = layout
        self._config = config
        self._blob_bytes = blob_bytes
        self._free_bytes = free_bytes or self._ask_file_system
        self._lock = threading.Lock()
        self._reserved = 0

    @property
    def reserved(self) -> int:
        """Bytes promised and not on disk yet."""
        return self._reserved

    def free(self) -> int:
        """Bytes the file system has free for this user."""
        return self._free_bytes()

    def partial(self) -> int:
        """Bytes that partial downloads take on disk."""
        return sum(_bytes_on_disk(folder) for folder in _folders(self._layout.ingests))

    def reserve(self, size: int) -> Reservation:
        """Sets ``size`` bytes aside.

        Raises:
            NoSpace: Over the quota, or less than ``min_free`` would be left on the disk.
        """
        with self._lock:
            self._check_disk(size)
            self._check_quota(size)
            self._reserved += size
        return Reservation(self, size)

    def give_back(self, size: int) -> int:
        """Takes ``size`` off the promised bytes; only reservations call this."""
        with self._lock:
            self._reserved -= size
        return size

    def _check_disk(self, size: int) -> None:
        room = self._free_bytes() - self._reserved - self._config.min_free
        if size > room:
            raise NoSpace(
                "{need} bytes are needed and {have} may be used on the disk of {root}, "
                "which keeps {min_free} free",
                hint="free some with `zhcache gc` or `zhcache rm REPO`, or lower store.min_free",
                need=size,
                have=max(room, 0),
                root=self._layout.root,
                min_free=self._config.min_free,
            )

    def _check_quota(self, size: int) -> None:
        if self._config.quota == 0:
            return
        room = self._config.quota - self._blob_bytes() - self.partial() - self._reserved
        if size > room:
            raise NoSpace(
                "{need} bytes are needed and {have} are left of the quota of {quota}",
                hint="free some with `zhcache gc` or `zhcache rm REPO`, or raise store.quota",
                need=size,
                have=max(room, 0),
                quota=self._config.quota,
            )

    def _ask_file_system(self) -> int:
        found = os.statvfs(self._layout.root)
        return found.f_bavail * found.f_frsize


def _folders(path: os.PathLike[str]) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _bytes_on_disk(folder: str) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    except FileNotFoundError:  # committed meanwhile: its bytes are a blob's now
        return 0
