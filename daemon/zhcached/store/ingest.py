"""An ingest: a blob that is not one yet. Ranges come in any order from any number of threads.

Here it is decided which thread writes, syncs, discards and commits when. Which bytes are there is
for ``extents`` to say, ``frontier`` hashes them on the way, and ``partial`` has them on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from zhcache.errors import NoSpace, ZhcacheError
from zhcached.clock import Clock
from zhcached.store import files
from zhcached.store.blobs import Blobs
from zhcached.store.digest import Committed, Promise, check
from zhcached.store.extents import Extents
from zhcached.store.failpoints import hit
from zhcached.store.flushing import Flushing
from zhcached.store.frontier import Frontier
from zhcached.store.partial import PartialFile
from zhcached.store.ranges import Ranges
from zhcached.store.space import Space

# Below this a killed commit costs less to fetch again than one more fsync for every file.
JOURNAL_BEFORE_COMMIT: Final = 8 << 20


class Ingest:
    """One unfinished blob on disk. All methods are thread-safe.

    Made by ``Intake.begin``; ``Ingests`` sees to it that a key has one at a time. ``is_proven``
    once its bytes hashed to the promise; ``closed`` are the repositories that are not public and
    that bytes of it came for.

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
        self._flushing = Flushing(clock.monotonic())
        self.is_proven = False
        self.closed = frozenset[str]()
        try:
            self._file = PartialFile(folder, self.size, space, fallocate=fallocate)
        except BaseException:
            self._end()
            raise
        self._extents = Extents(self._file.restored)
        self.received = self._extents.received
        self.durable = self._extents.durable
        self._frontier = Frontier(
            promise, self._changed, known_to=self.received.first_gap, read=self._read
        )

    def missing(self) -> Ranges:
        """Returns what has not been received yet."""
        with self._changed:
            return self.received.gaps(self.size)

    def contributions(self) -> dict[str, Ranges]:
        """Returns which source sent which range, those of earlier runs included."""
        with self._changed:
            return self._extents.by_source()

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
            return self._file.open_for_reading() if self._state == "open" else None

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
            fresh = self._extents.claim(offset, end)
        try:
            with files.disk_errors(self._folder):
                hit("ingest.write")
                for start, stop in fresh:
                    self._file.write(view[start - offset : stop - offset], start)
        except BaseException:
            with self._changed:
                self._extents.give_back(fresh)
                self._changed.notify_all()
            raise
        with self._changed:
            self._extents.receive(fresh, source)
            self._file.landed(fresh.total)
            self._changed.notify_all()
            # Decided under the same lock: after a discard these bytes must not reach the digest.
            hashes = self._frontier.start()
        self._on_moved()
        if hashes:
            self._frontier.move(view if fresh.contains(offset, end) else None, offset)

    def _read(self, buffer: memoryview, at: int) -> int:
        with files.disk_errors(self._folder):
            got = self._file.read(buffer, at)
        if got == 0:
            raise ZhcacheError("{path} became shorter", path=self._file.path)
        return got

    def maybe_sync(self) -> None:
        """Syncs if enough came since the last time; one thread does, the others go on.

        Raises:
            NoSpace: The disk is full.
            ZhcacheError: The disk failed; the ingest is lost.
        """
        unsynced = self._extents.unsynced_bytes
        if self._flushing.wants_writeback(unsynced):
            self._file.start_writeback()
        due = self._flushing.wants_sync(unsynced, self._clock.monotonic())
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
            fresh = self._extents.take_unjournaled()
            self._flushing.synced(self._clock.monotonic())
        if not fresh:
            return
        try:
            with files.disk_errors(self._folder):
                self._file.sync(fresh)
        except BaseException as error:
            # After a failed fsync the kernel may call the lost pages clean, so that a second
            # fsync would succeed on bytes that are not there. Nothing of this ingest counts.
            self._give_up(error)
            raise
        with self._changed:
            self._extents.settle(fresh)

    def discard(self, ranges: Ranges | None = None) -> None:
        """Forgets ranges, all of them by default, durably; they are missing again.

        Raises:
            NoSpace: The disk is full.
            ZhcacheError: The disk failed; the ingest is lost.
        """
        dropped = ranges.copy() if ranges is not None else Ranges([(0, self.size)])
        with self._syncing, self._changed:
            self._check_open()
            self._wait_for_writers()
            try:
                with files.disk_errors(self._folder):
                    self._file.drop(dropped)
            except BaseException as error:
                self._give_up(error)
                raise
            self._on_discarded()
            self._extents.forget(dropped)
            if any(start < self._frontier.at for start, _ in dropped):
                self._frontier.restart()
        self._on_moved()

    def _wait_for_writers(self) -> None:
        """Returns, under the lock, once no thread writes or hashes."""
        self._changed.wait_for(lambda: not (self._extents.is_claimed or self._frontier.is_moving))

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
            room = self._space.reserve(self.size)
        except NoSpace:
            return None
        try:
            with self._changed, files.disk_errors(self._folder):
                self._check_open()
                aside = self._file.start_over(room)
                # Who looked in since the discard has the old file open.
                self._on_discarded()
        except BaseException:
            room.release()
            raise
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
            if self._frontier.at != self.size:
                raise ValueError(f"bytes of {self.key} were discarded during its commit")
            self._state = "committing"
            self.is_proven = True
        self._on_moved()
        try:
            self._on_verified(came)
            with files.disk_errors(self._folder):
                self._file.admit(self._blobs, came.sha256)
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
                self._changed.wait_for(lambda: not self._frontier.is_moving)
                if self._frontier.at == self.size:
                    digest, size = self._frontier.digest, self._file.size_on_disk()
                    return Committed(digest.sha256(), digest.git_sha1(), size)
                if not self._frontier.start():
                    raise ValueError(f"bytes of {self.key} were discarded during its commit")
            self._frontier.move(None, 0, self.size)

    def close(self) -> None:
        """Lets go of the ingest and keeps it on disk, for a later resume. Does nothing twice."""
        with self._syncing, self._changed:
            if self._state != "open":
                return
            self._wait_for_writers()
            self._state = "closed"
            if self._extents.is_unjournaled:
                self._on_discarded()
            # What was set aside for bytes that nobody waits for now is room for others.
            self._file.trim(max((end for _, end in self.received), default=0))
        self._finish(remove=False)

    def _give_up(self, error: BaseException) -> None:
        with self._changed:
            if self._state == "closed":
                return
            # Before the wait: who comes meanwhile, on another connection, is told the reason.
            self._failure = error if isinstance(error, Exception) else None
            self._wait_for_writers()
            self._state = "closed"
            self._on_discarded()
        self._finish(remove=True)

    def _finish(self, *, remove: bool) -> None:
        with self._changed:
            self._state = "closed"
        try:
            self._file.close(remove=remove)
        finally:
            self._end()

    def _end(self) -> None:
        self._on_closed()
        self._on_moved()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._state != "open":
            raise ValueError(f"the ingest of {self.key} is {self._state}")
