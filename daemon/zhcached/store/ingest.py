"""An ingest: a blob that is not one yet. Ranges come in any order from any number of threads.

Three sets of offsets: *claimed* (a thread is writing them now), *received* (written, perhaps only
to the page cache) and *durable* (synced and journaled; what a restart finds). The first writer of
an offset wins and nobody writes it again until it is discarded, because the hash may already have
gone past it: else the file could differ from the digest that proves it.

The digest runs along with the writer at the frontier. Bytes that arrived ahead of it are read
back from the page cache in bounded steps, by whoever writes next, so that no connection starves.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from zhcache.errors import NoSpace, ZhcacheError
from zhcached.clock import Clock
from zhcached.store import files
from zhcached.store.blobs import Blobs
from zhcached.store.digest import READ_STEP, Committed, ContentDigest, Promise, check
from zhcached.store.failpoints import hit
from zhcached.store.journal import Journal
from zhcached.store.ranges import Ranges
from zhcached.store.space import Reservation, Space

# One chunk below the 32 MiB that a kill may cost: the check comes after the chunk is written.
SYNC_BYTES: Final = 31 << 20
SYNC_SECONDS: Final = 1.0
# A connection waits in the sync: with the disk at work since then it waits a third as long, and
# in smaller steps the calls would only cost CPU.
WRITEBACK_BYTES: Final = 8 << 20
CATCH_UP: Final = 4 << 20
# Below this a killed commit costs less to fetch again than one more fsync for every file.
JOURNAL_BEFORE_COMMIT: Final = 8 << 20


class Ingest:
    """One unfinished blob on disk. All methods are thread-safe.

    Made by ``Store.begin``, which sees to it that a key has one ingest at a time. ``is_proven``
    once its bytes hashed to the promise.

    Args:
        folder: Where it lies; made if it is not there, resumed if it is.
        promise: What the bytes must turn out to be.
        blobs: Where it goes at commit.
        space: Asked for the room that is still missing.
        clock: For the age of what is not synced.
        fallocate: The file system can set blocks aside.
        on_verified: Called before the blob gets its name.
        on_committed: Called once the blob is durable, before ``commit`` returns.
        on_closed: Called once, when the ingest is given up or done.
        on_moved: Called after bytes came or went, or the ingest ended, from any thread.
        on_discarded: Called before bytes that were received may become others.

    Raises:
        NoSpace: No room for the rest.
        ZhcacheError: The disk failed.
    """

    def __init__(
        self,
        folder: Path,
        promise: Promise,
        *,
        blobs: Blobs,
        space: Space,
        clock: Clock,
        fallocate: bool,
        on_verified: Callable[[Committed], None],
        on_committed: Callable[[Committed], None],
        on_closed: Callable[[], None],
        on_moved: Callable[[], None] = lambda: None,
        on_discarded: Callable[[], None] = lambda: None,
    ) -> None:
        self.promise = promise
        self.size = promise.size
        self.key = promise.key
        self._folder = folder
        self._data = folder / "data"
        self._blobs = blobs
        self._space = space
        self._clock = clock
        self._on_verified = on_verified
        self._on_committed = on_committed
        self._on_closed = on_closed
        self._on_moved = on_moved
        self._on_discarded = on_discarded
        self._changed = threading.Condition()
        self._syncing = threading.Lock()
        self._state = "open"
        self._failure: Exception | None = None
        self._is_anchored = False
        self._hashing = False
        self._buffer: memoryview | None = None
        self._fd = -1
        self._reservation: Reservation | None = None
        self._journal: Journal | None = None
        self.received = Ranges()
        self.is_proven = False
        is_empty = False
        try:
            with files.disk_errors(folder):
                is_empty = _make(folder)
                self._fd = _open_for_writing(self._data)
                self._journal = Journal(folder / "journal", self.size)
                self._resume(self._journal)
                is_empty = not self.received
            self._reserve(fallocate)
        except BaseException:
            # Bytes that could not be looked at, for want of descriptors say, may be worth much.
            self._finish(remove=is_empty)
            raise

    def _resume(self, journal: Journal) -> None:
        self._by_source = journal.replay(os.fstat(self._fd).st_size)
        os.ftruncate(self._fd, self.size)
        for ranges in self._by_source.values():
            self.received.update(ranges)
        self.durable = self.received.copy()
        self._claimed = Ranges()
        self._unjournaled: dict[str, Ranges] = {}
        self._unsynced_bytes = 0
        self._writing_back = 0
        self._last_sync = self._clock.monotonic()
        self._restart_digest()

    def _reserve(self, fallocate: bool) -> None:
        on_disk = os.fstat(self._fd).st_blocks * 512
        self._reservation = self._space.reserve(max(0, self.size - on_disk))
        if not fallocate or self.size == 0:
            return
        try:
            with files.disk_errors(self._folder):
                os.posix_fallocate(self._fd, 0, self.size)
        except ZhcacheError:
            self._reservation.release()
            raise
        self._reservation.release()

    def missing(self) -> Ranges:
        """Returns what has not been received yet."""
        with self._changed:
            return self.received.gaps(self.size)

    def contributions(self) -> dict[str, Ranges]:
        """Returns which source sent which range, those of earlier runs included."""
        with self._changed:
            return {source: ranges.copy() for source, ranges in self._by_source.items() if ranges}

    def received_from(self, offset: int) -> int:
        """Returns where what was received from ``offset`` on ends; ``offset`` if that is missing.

        Nothing of it is proven before ``commit`` has returned.
        """
        with self._changed:
            return self.received.first_gap(offset)

    def reading(self) -> int | None:
        """Returns a descriptor of the bytes so far; None if the ingest is not open any more.

        The caller closes it. After ``on_discarded`` it may be of a file that is none any more.
        """
        with self._changed:
            if self._state != "open" or self._fd < 0:
                return None
            return os.open(self._data, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def write(self, offset: int, chunk: memoryview | bytes, source: str) -> None:
        """Takes bytes that belong at ``offset``. Offsets that are there already are skipped.

        The chunk is not kept; the caller may reuse its buffer.

        Raises:
            ValueError: Outside ``0..size``, or the ingest was closed.
            NoSpace: The disk is full.
            ZhcacheError: The disk failed, perhaps in another thread's call.
        """
        view = memoryview(chunk).cast("B")
        end = offset + len(view)
        if offset < 0 or end > self.size:
            raise ValueError(f"{offset}..{end} is outside of {self.size} bytes")
        with self._changed:
            self._check_open()
            fresh = self._claim(offset, end)
        try:
            with files.disk_errors(self._folder):
                hit("ingest.write")
                for start, stop in fresh:
                    files.write_all_at(self._fd, view[start - offset : stop - offset], start)
        except BaseException:
            with self._changed:
                self._claimed.subtract(fresh)
                self._changed.notify_all()
            raise
        with self._changed:
            self._receive(fresh, source)
            # Decided under the same lock: after a discard these bytes must not reach the digest.
            hashes = self._start_hashing()
        self._on_moved()
        if hashes:
            whole = view if fresh.contains(offset, end) else None
            self._hash_on(whole, offset, CATCH_UP)

    def _claim(self, start: int, end: int) -> Ranges:
        fresh = self.received.gaps_within(start, end)
        if self._claimed:
            fresh.subtract(self._claimed)
        self._claimed.update(fresh)
        return fresh

    def _receive(self, fresh: Ranges, source: str) -> None:
        self._claimed.subtract(fresh)
        self.received.update(fresh)
        self._by_source.setdefault(source, Ranges()).update(fresh)
        self._unjournaled.setdefault(source, Ranges()).update(fresh)
        landed = fresh.total
        self._unsynced_bytes += landed
        if self._reservation is not None:
            self._reservation.shrink(landed)
        self._changed.notify_all()

    def _start_hashing(self) -> bool:
        if self._hashing or self.received.first_gap(self._hashed) == self._hashed:
            return False
        self._hashing = True
        return True

    def _hash_on(self, view: memoryview | None, offset: int, budget: int) -> None:
        """Moves the digest's frontier on by ``view``, then by reading; one thread at a time."""
        at = self._hashed
        try:
            if view is not None and offset <= at < offset + len(view):
                self._digest.update(view[at - offset :])
                at = offset + len(view)
            while budget > 0:
                with self._changed:
                    self._hashed = at
                    known = self.received.first_gap(at)
                if known == at:
                    break
                got = self._hash_from_disk(at, min(known - at, READ_STEP))
                at += got
                budget -= got
        finally:
            with self._changed:
                self._hashed = at
                self._hashing = False
                self._changed.notify_all()

    def _hash_from_disk(self, at: int, length: int) -> int:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(READ_STEP))
        with files.disk_errors(self._folder):
            got = os.preadv(self._fd, [self._buffer[:length]], at)
        if got == 0:
            raise ZhcacheError("{path} became shorter", path=self._data)
        self._digest.update(self._buffer[:got])
        return got

    def maybe_sync(self) -> None:
        """Syncs if enough came since the last time; one thread does, the others go on.

        Raises:
            NoSpace: The disk is full.
            ZhcacheError: The disk failed; the ingest is lost.
        """
        if self._unsynced_bytes - self._writing_back >= WRITEBACK_BYTES:
            self._writing_back = self._unsynced_bytes
            files.start_writeback(self._fd)
        waited = self._clock.monotonic() - self._last_sync
        due = self._unsynced_bytes >= SYNC_BYTES or (
            self._unsynced_bytes and waited >= SYNC_SECONDS
        )
        if due and self._syncing.acquire(blocking=False):
            try:
                self._sync()
            finally:
                self._syncing.release()

    def sync(self) -> None:
        """Makes what was received durable: the bytes first, then the journal that names them.

        Raises:
            NoSpace: The disk is full.
            ZhcacheError: The disk failed; the ingest is lost.
        """
        with self._syncing:
            self._sync()

    def _sync(self) -> None:
        with self._changed:
            self._check_open()
            fresh, self._unjournaled = self._unjournaled, {}
            self._unsynced_bytes = 0
            self._writing_back = 0
            self._last_sync = self._clock.monotonic()
        if not fresh:
            return
        try:
            with files.disk_errors(self._folder):
                hit("journal.before_data_sync")
                hit("journal.data_sync")
                os.fdatasync(self._fd)
                hit("journal.after_data_sync")
                self._open_journal().append_received(fresh)
                self._anchor()
        except BaseException as error:
            # After a failed fsync the kernel may call the lost pages clean, so that a second
            # fsync would succeed on bytes that are not there. Nothing of this ingest counts.
            self._give_up(error)
            raise
        with self._changed:
            for ranges in fresh.values():
                self.durable.update(ranges)

    def _open_journal(self) -> Journal:
        if self._journal is None:
            raise ValueError(f"the ingest of {self.key} has no journal")
        return self._journal

    def _anchor(self) -> None:
        """Makes the ingest's own names durable, once: a journal that vanishes helps nobody."""
        if not self._is_anchored:
            files.sync_dir(self._folder)
            files.sync_dir(self._folder.parent)
            self._is_anchored = True

    def discard(self, ranges: Ranges | None = None) -> None:
        """Forgets ranges, all of them by default, durably; they are missing again.

        Raises:
            NoSpace: The disk is full.
            ZhcacheError: The disk failed; the ingest is lost.
        """
        dropped = ranges.copy() if ranges is not None else Ranges([(0, self.size)])
        with self._syncing, self._changed:
            self._check_open()
            self._changed.wait_for(lambda: not self._claimed and not self._hashing)
            try:
                with files.disk_errors(self._folder):
                    self._open_journal().append_dropped(dropped)
            except BaseException as error:
                self._give_up(error)
                raise
            self._on_discarded()
            self._forget(dropped)
        self._on_moved()

    def _forget(self, dropped: Ranges) -> None:
        for kept in (self.received, self.durable, *self._by_source.values()):
            kept.subtract(dropped)
        for kept in self._unjournaled.values():
            kept.subtract(dropped)
        if any(start < self._hashed for start, _ in dropped):
            self._restart_digest()

    def _restart_digest(self) -> None:
        self._digest = ContentDigest(self.size, want_git=self.promise.git_sha1 is not None)
        self._hashed = 0

    def set_aside(self) -> Path | None:
        """Starts over and keeps the bytes so far for comparison, where there is room for both.

        Returns:
            The file with the old bytes, gone with the ingest; None if there was no room.

        Raises:
            NoSpace: The disk is full.
            ZhcacheError: The disk failed; the ingest is lost.
        """
        self.discard()
        try:
            again = self._space.reserve(self.size)
        except NoSpace:
            return None
        aside = self._folder / "aside"
        with self._changed, files.disk_errors(self._folder):
            self._check_open()
            self._data.replace(aside)
            old, self._fd = self._fd, _open_for_writing(self._data)
            os.close(old)
            os.ftruncate(self._fd, self.size)
            self._is_anchored = False
            if self._reservation is not None:
                self._reservation.release()
            self._reservation = again
            # Who looked in since the discard has the old file open.
            self._on_discarded()
        return aside

    def commit(self) -> Committed:
        """Makes the ingest a blob: size, digest, read-only, fsync, rename, fsync of the folder.

        Raises:
            ValueError: Bytes are missing, or the ingest is no longer open.
            DigestMismatch: The bytes are not the promised ones; the ingest is kept.
            NoSpace: The disk is full.
            ZhcacheError: The disk failed; the ingest is lost.
        """
        with self._changed:
            self._check_open()
            if not self.received.contains(0, self.size):
                raise ValueError(f"{self.received.gaps(self.size)} of {self.key} are missing")
        if self.size >= JOURNAL_BEFORE_COMMIT:
            self.sync()
        hit("commit.before_digest")
        came = self._finish_digest()
        check(self.promise, came)
        hit("commit.after_digest")
        with self._syncing, self._changed:
            self._check_open()
            if self._hashed != self.size:
                raise ValueError(f"bytes of {self.key} were discarded during its commit")
            self._state = "committing"
            self.is_proven = True
        self._on_moved()
        try:
            self._on_verified(came)
            with files.disk_errors(self._folder):
                self._blobs.admit(self._fd, self._data, came.sha256)
        except BaseException as error:
            self._give_up(error)
            raise
        try:
            self._on_committed(came)
        finally:
            # Whether recorded or not the bytes are a blob now; this key must not stay taken.
            self._finish(remove=True)
        hit("commit.after_ingest_removed")
        return came

    def _finish_digest(self) -> Committed:
        while True:
            with self._changed:
                self._check_open()
                self._changed.wait_for(lambda: not self._hashing)
                if self._hashed == self.size:
                    size = os.fstat(self._fd).st_size
                    return Committed(self._digest.sha256(), self._digest.git_sha1(), size)
                if not self._start_hashing():
                    raise ValueError(f"bytes of {self.key} were discarded during its commit")
            self._hash_on(None, 0, self.size)

    def close(self) -> None:
        """Lets go of the ingest and keeps it on disk, for a later resume. Does nothing twice."""
        with self._syncing, self._changed:
            if self._state != "open":
                return
            self._changed.wait_for(lambda: not self._claimed and not self._hashing)
            self._state = "closed"
            if any(self._unjournaled.values()):
                self._on_discarded()
            with contextlib.suppress(OSError):
                # What was set aside for bytes that nobody waits for now is room for others.
                os.ftruncate(self._fd, max((end for _, end in self.received), default=0))
        self._finish(remove=False)

    def _give_up(self, error: BaseException) -> None:
        with self._changed:
            if self._state == "closed":
                return
            # Before the wait: who comes meanwhile, on another connection, is told the reason.
            self._failure = error if isinstance(error, Exception) else None
            self._changed.wait_for(lambda: not self._claimed and not self._hashing)
            self._state = "closed"
            self._on_discarded()
        self._finish(remove=True)

    def _finish(self, *, remove: bool) -> None:
        with self._changed:
            self._state = "closed"
        try:
            if self._reservation is not None:
                self._reservation.release()
            if self._journal is not None:
                self._journal.close()
            if self._fd >= 0:
                os.close(self._fd)
            if remove:
                # The journal goes first: bytes without a journal are nothing, a journal without
                # its bytes would vouch for a file of holes.
                with contextlib.suppress(OSError):
                    (self._folder / "journal").unlink(missing_ok=True)
                    shutil.rmtree(self._folder)
        finally:
            self._on_closed()
            self._on_moved()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._state != "open":
            raise ValueError(f"the ingest of {self.key} is {self._state}")


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
