"""A draft: a blob that is made here. Its size is known beforehand, its bytes come in order.

No promise and no journal: who makes the bytes can make them again, so that a crash may cost them
all. What a dead daemon leaves is scrap, deleted at the next start.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from zhcached.store import files
from zhcached.store.blobs import Blobs
from zhcached.store.digest import Committed, ContentDigest
from zhcached.store.failpoints import hit
from zhcached.store.flushing import Flushing
from zhcached.store.space import Reservation, Space


class Draft:
    """One file in the making. Thread-safe; as a context manager it is closed at the end.

    Made by ``Intake.draft``.

    Args:
        folder: Where it lies until then; must not exist.
        size: Its bytes, not one more or less.
        blobs: Where it goes at commit.
        space: Asked for the room.
        fallocate: The file system can set blocks aside.
        on_verified: Called before the blob gets its name.
        on_committed: Called once the blob is durable, before ``commit`` returns.

    Raises:
        ValueError: The size is negative.
        NoSpace: No room.
        ZhcacheError: The disk failed.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        blobs: Blobs,
        space: Space,
        fallocate: bool,
        on_verified: Callable[[Committed], None],
        on_committed: Callable[[Committed], None],
    ) -> None:
        if size < 0:
            raise ValueError("a size is not negative")
        self.size = size
        self._folder = folder
        self._data = folder / "data"
        self._blobs = blobs
        self._on_verified = on_verified
        self._on_committed = on_committed
        self._lock = threading.Lock()
        self._digest = ContentDigest(size, want_git=False)
        self._written = 0
        self._flushing = Flushing()
        self._fd: int | None = None
        self._reservation: Reservation = space.reserve(size)
        try:
            with files.disk_errors(folder):
                folder.mkdir(mode=0o700, parents=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                self._fd = os.open(self._data, flags, 0o600)
                if fallocate and size:
                    os.posix_fallocate(self._fd, 0, size)
        except BaseException:
            self.close()
            raise
        if fallocate:
            self._reservation.release()

    @property
    def written(self) -> int:
        """Bytes so far."""
        return self._written

    def write(self, chunk: memoryview | bytes) -> None:
        """Takes the next bytes. The chunk is not kept; the caller may reuse its buffer.

        Raises:
            ValueError: More bytes than the draft has, or it was closed.
            NoSpace: The disk is full.
            ZhcacheError: The disk failed.
        """
        view = memoryview(chunk).cast("B")
        with self._lock:
            fd = self._opened()
            if len(view) > self.size - self._written:
                raise ValueError(f"{self._written + len(view)} bytes for a draft of {self.size}")
            with files.disk_errors(self._folder):
                hit("draft.write")
                files.write_all_at(fd, view, self._written)
            self._digest.update(view)
            self._written += len(view)
            self._reservation.shrink(len(view))
            if self._flushing.wants_writeback(self._written):
                files.start_writeback(fd)

    def commit(self) -> Committed:
        """Makes the draft a blob: size, digest, read-only, fsync, rename, fsync of the folder.

        Raises:
            ValueError: Bytes are missing, or the draft was closed.
            NoSpace: The disk is full; the draft is lost.
            ZhcacheError: The disk failed; the draft is lost.
        """
        with self._lock:
            fd = self._opened()
            if self._written != self.size:
                raise ValueError(f"{self._written} bytes of a draft of {self.size}")
            hit("commit.before_digest")
            came = Committed(self._digest.sha256(), None, os.fstat(fd).st_size)
            hit("commit.after_digest")
            try:
                self._on_verified(came)
                with files.disk_errors(self._folder):
                    self._blobs.admit(fd, self._data, came.sha256)
                self._on_committed(came)
            finally:
                self._finish()
            hit("commit.after_ingest_removed")
        return came

    def close(self) -> None:
        """Gives the draft up and deletes it. Does nothing after ``commit``, or twice."""
        with self._lock:
            self._finish()

    def _opened(self) -> int:
        if self._fd is None:
            raise ValueError("the draft is closed")
        return self._fd

    def _finish(self) -> None:
        self._reservation.release()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
