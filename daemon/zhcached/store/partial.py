"""What an ingest is on disk: its bytes, the journal of those that are durable, the room for both.

No threads are known here: ``ingest`` says who may do what when.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from zhcached.store import files
from zhcached.store.blobs import Blobs
from zhcached.store.failpoints import hit
from zhcached.store.journal import Journal
from zhcached.store.ranges import Ranges
from zhcached.store.space import Reservation, Space


class PartialFile:
    """The files of one ingest. Not thread-safe: the ingest serialises its calls.

    Attributes:
        path: Where the bytes lie.
        restored: What was durable when it was opened, by source.

    Args:
        folder: Where they lie; made if it is not there, resumed if it is.
        size: Of the whole file.
        space: Asked for the room that is still missing.
        fallocate: The file system can set blocks aside.

    Raises:
        NoSpace: No room for the rest.
        ZhcacheError: The disk failed.
    """

    def __init__(self, folder: Path, size: int, space: Space, *, fallocate: bool) -> None:
        self.path = folder / "data"
        self._folder = folder
        self._size = size
        self._fd = -1
        self._room: Reservation | None = None
        self._log: Journal | None = None
        self._is_anchored = False
        is_empty = False
        try:
            with files.disk_errors(folder):
                is_empty = _make(folder)
                self._fd = _open_for_writing(self.path)
                self._log = Journal(folder / "journal", size)
                self.restored = self._log.replay(self.size_on_disk())
                os.ftruncate(self._fd, size)
                is_empty = not any(self.restored.values())
            self._reserve(space, fallocate=fallocate)
        except BaseException:
            # Bytes that could not be looked at, for want of descriptors say, may be worth much.
            self.close(remove=is_empty)
            raise

    def _reserve(self, space: Space, *, fallocate: bool) -> None:
        on_disk = os.fstat(self._fd).st_blocks * 512
        self._room = space.reserve(max(0, self._size - on_disk))
        if fallocate and self._size:
            with files.disk_errors(self._folder):
                os.posix_fallocate(self._fd, 0, self._size)
            self._room.release()

    def size_on_disk(self) -> int:
        """Returns the length of the file as it is."""
        return os.fstat(self._fd).st_size

    def open_for_reading(self) -> int:
        """Returns a descriptor of the bytes; the caller closes it."""
        return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def read(self, buffer: memoryview, at: int) -> int:
        """Fills a buffer from an offset on and returns how many bytes were read."""
        return os.preadv(self._fd, [buffer], at)

    def write(self, content: memoryview, offset: int) -> None:
        """Writes all of ``content`` at ``offset``."""
        files.write_all_at(self._fd, content, offset)

    def landed(self, count: int) -> None:
        """Says that so many bytes more take room on disk themselves."""
        if self._room is not None:
            self._room.shrink(count)

    def start_writeback(self) -> None:
        """Has the disk begin on what was written."""
        files.start_writeback(self._fd)

    def sync(self, fresh: dict[str, Ranges]) -> None:
        """Makes ranges durable, by source: the bytes first, then the journal that names them."""
        hit("journal.before_data_sync")
        hit("journal.data_sync")
        os.fdatasync(self._fd)
        hit("journal.after_data_sync")
        self._journal().append_received(fresh)
        self._anchor()

    def drop(self, ranges: Ranges) -> None:
        """Makes it durable that ranges no longer count."""
        self._journal().append_dropped(ranges)

    def start_over(self, room: Reservation) -> Path:
        """Goes on with an empty file, in room of its own; returns where the one so far is now."""
        aside = self._folder / "aside"
        self.path.replace(aside)
        old, self._fd = self._fd, _open_for_writing(self.path)
        os.close(old)
        os.ftruncate(self._fd, self._size)
        self._is_anchored = False
        if self._room is not None:
            self._room.release()
        self._room = room
        return aside

    def admit(self, blobs: Blobs, sha256: str) -> None:
        """Makes the bytes, of which that is the digest, a blob."""
        blobs.admit(self._fd, self.path, sha256)

    def trim(self, end: int) -> None:
        """Gives the blocks behind ``end`` back."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, end)

    def close(self, *, remove: bool) -> None:
        """Gives back what is held of room and descriptors; deletes the files, or keeps them."""
        if self._room is not None:
            self._room.release()
        if self._log is not None:
            self._log.close()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
        if remove:
            # The journal goes first: bytes without a journal are nothing, a journal without
            # its bytes would vouch for a file of holes.
            with contextlib.suppress(OSError):
                (self._folder / "journal").unlink(missing_ok=True)
                shutil.rmtree(self._folder)

    def _journal(self) -> Journal:
        assert self._log is not None
        return self._log

    def _anchor(self) -> None:
        """Makes the files' own names durable, once: a journal that vanishes helps nobody."""
        if not self._is_anchored:
            files.sync_dir(self._folder)
            files.sync_dir(self._folder.parent)
            self._is_anchored = True


def _make(folder: Path) -> bool:
    """Makes the folder; False if it was there."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return False
    return True


def _open_for_writing(path: Path) -> int:
    """Opens an ingest's bytes, made if absent.

    A crash inside ``commit`` leaves them read-only. A file with a second name may be a blob by
    that name, and blobs are never opened for writing: it is let go and begun anew.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            path.rmdir()
        elif found.st_nlink > 1 or not stat.S_ISREG(found.st_mode):
            path.unlink()
        elif found.st_mode & 0o200 == 0:
            path.chmod(0o600)
    return os.open(path, flags, 0o600)
