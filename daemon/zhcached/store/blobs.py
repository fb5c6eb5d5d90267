"""Blobs: immutable files named by the sha256 of their content.

``admit`` is the one place where a blob gets its name. After that a blob is only ever unlinked or
moved to quarantine, never written, truncated or replaced: clients map it.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Container, Iterator
from itertools import count
from pathlib import Path

import msgspec

from zhcache.protocol.names import is_sha256
from zhcached.store import adoption, files
from zhcached.store.digest import Committed, Progress, Promise, check, hash_file
from zhcached.store.failpoints import hit
from zhcached.store.layout import SCRAP, Layout

BLOB_MODE = 0o440


class Identity(msgspec.Struct, frozen=True):
    """What a file's inode says of it. While it stays the same, nobody wrote the bytes."""

    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        """Returns the identity in a stat result."""
        return cls(found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


class Blobs:
    """The files under ``blobs/sha256``. Thread-safe.

    Args:
        layout: Where the store lies.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._names = threading.Lock()
        self._serial = count()

    def path(self, sha256: str) -> Path:
        """Where the blob of that name lies, or would."""
        return self._layout.blob(sha256)

    def identity(self, sha256: str) -> Identity | None:
        """Returns what the inode says, or None if there is no such regular file."""
        try:
            found = self.path(sha256).lstat()
        except FileNotFoundError:
            return None
        return Identity.of(found) if stat.S_ISREG(found.st_mode) else None

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Tells whether the blob is here, of that size if one is given."""
        found = self.identity(sha256)
        return found is not None and size in (None, found.size)

    def open(self, sha256: str) -> int:
        """Returns a descriptor open for reading; the caller closes it.

        Raises:
            FileNotFoundError: No such blob.
        """
        return os.open(self.path(sha256), os.O_RDONLY | os.O_NOFOLLOW)

    def unlink(self, sha256: str) -> int:
        """Removes the blob and returns its size; one that is gone counts 0.

        Open descriptors and mappings of it stay valid.
        """
        found = self.identity(sha256)
        self.path(sha256).unlink(missing_ok=True)
        return found.size if found else 0

    def unlink_unless(self, sha256: str, held: Callable[[], Container[str]]) -> bool:
        """Removes the blob unless it is held; tells whether it is gone.

        Who is about to admit the same bytes holds the name first and takes this lock second, so
        that a blob is never unlinked between "it is here already" and its being recorded.
        """
        with self._names:
            if sha256 in held():
                return False
            self.path(sha256).unlink(missing_ok=True)
        return True

    def list(self) -> Iterator[tuple[str, Identity]]:
        """Yields every blob with what its inode says, one look each."""
        with os.scandir(self._layout.blobs) as prefixes:
            folders = [entry.path for entry in prefixes if entry.is_dir(follow_symlinks=False)]
        for folder in folders:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_sha256(entry.name) and entry.is_file(follow_symlinks=False):
                        yield entry.name, Identity.of(entry.stat(follow_symlinks=False))

    def hash(
        self, sha256: str, *, want_git: bool = False, progress: Progress | None = None
    ) -> Committed:
        """Reads the whole blob and returns what its bytes hash to.

        Args:
            sha256: The blob.
            want_git: Compute git's sha1 as well.
            progress: Called with the bytes of each step; what it raises ends the reading.

        Raises:
            FileNotFoundError: No such blob.
        """
        fd = self.open(sha256)
        try:
            return hash_file(fd, want_git=want_git, progress=progress)
        finally:
            os.close(fd)

    def admit(self, fd: int, path: Path, sha256: str) -> None:
        """Gives the verified file ``path``, open as ``fd``, its name among the blobs.

        The order is the proof: read-only before the name exists, so that no writer can come
        through it; durable before the rename, so that a power cut never leaves the name on holes;
        the folder last, so that a name that was reported stays.

        Raises:
            OSError: A step failed. If it was the fsync, the bytes are not to be trusted again.
        """
        os.fchmod(fd, BLOB_MODE)
        hit("commit.after_chmod")
        hit("commit.fsync")
        os.fsync(fd)
        hit("commit.after_fsync")
        target = self.path(sha256)
        target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        # Two ingests (one promised by sha256, one by git's sha1) may end in the same blob. The
        # first stays: renaming over it would pull the file from under those who map it.
        with self._names:
            present = self.identity(sha256)
            if present is not None and present.size == os.fstat(fd).st_size:
                path.unlink()
            else:
                if os.path.lexists(target):
                    self._move_aside(target)
                path.rename(target)
        hit("commit.after_rename")
        files.sync_dir(target.parent)
        hit("commit.after_dir_fsync")

    def set_aside(self, sha256: str) -> Path | None:
        """Moves a damaged blob to quarantine; returns where, or None if it is gone."""
        with self._names:
            source = self.path(sha256)
            if not os.path.lexists(source):
                return None
            target = self._move_aside(source)
        files.sync_dir(source.parent)
        files.sync_dir(self._layout.quarantine)
        return target

    def adopt_file(
        self,
        fd: int,
        promise: Promise | None,
        *,
        size: int,
        link_ok: bool,
        on_verified: Callable[[Committed], None] | None = None,
        progress: Progress | None = None,
    ) -> Committed:
        """Takes in a file of someone else through a descriptor opened for reading.

        Without a second copy where it can be had: a reflink, or with ``link_ok`` a hard link to
        a file of our own user that nobody has open for writing. Else a copy. What is hashed are
        the bytes that end in the store.

        Args:
            fd: Open for reading, at any position.
            promise: What the bytes must be, if that is known.
            size: The file's bytes as room was set aside for them; not one more is copied.
            link_ok: A hard link may stand in for a copy.
            on_verified: Called with the digests before the blob gets its name.
            progress: Called with the bytes of each step; what it raises ends the adoption.

        Raises:
            UsageError: Not a regular file, or it changed while it was read.
            DigestMismatch: Not the promised bytes; nothing stays behind.
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        found = adoption.check_source(fd, size)
        folder = self._layout.ingest(f"{SCRAP}{os.getpid()}-{next(self._serial)}")
        with files.disk_errors(self._layout.root):
            folder.mkdir(mode=0o700, parents=True)
            path = folder / "data"
            try:
                source, came = adoption.bring_in(
                    fd,
                    found,
                    path,
                    link_ok=link_ok,
                    want_git=promise is not None and promise.git_sha1 is not None,
                    mode=BLOB_MODE,
                    progress=progress,
                )
                try:
                    try:
                        if promise is not None:
                            check(promise, came)
                        if on_verified is not None:
                            on_verified(came)
                    except BaseException:
                        os.fchmod(source, stat.S_IMODE(found.st_mode))  # it may be their file
                        raise
                    self.admit(source, path, came.sha256)
                finally:
                    os.close(source)
                return came
            finally:
                path.unlink(missing_ok=True)
                folder.rmdir()

    def _move_aside(self, path: Path) -> Path:
        for number in count():
            target = self._layout.quarantine / f"{path.name}.{number}"
            if not os.path.lexists(target):
                path.rename(target)
                os.utime(target, follow_symlinks=False)  # quarantine's age counts from now
                return target
        raise AssertionError("count() does not end")
