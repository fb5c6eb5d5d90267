"""The way in for bytes: which ingests are open, what is here already, what was committed.

One ingest a key is open at a time in the whole daemon. Every blob that comes in is held for the
job that brought it from before it has its name, so that no collection can take it on the way to
a manifest.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

from zhcache.errors import Busy
from zhcached.clock import Clock
from zhcached.config import StoreConfig
from zhcached.errors import StoreDamaged
from zhcached.store import listing, records
from zhcached.store.blobs import Blobs
from zhcached.store.catalog import Catalog
from zhcached.store.digest import Committed, Progress, Promise
from zhcached.store.draft import Draft
from zhcached.store.failpoints import hit
from zhcached.store.fsck import Fsck
from zhcached.store.ingest import JOURNAL_BEFORE_COMMIT, Ingest
from zhcached.store.layout import SCRAP, Layout, reserves_natively
from zhcached.store.leases import Leases
from zhcached.store.space import Space
from zhcached.store.turns import Turns


class Intake:
    """The bytes' side of a store. Thread-safe; made by ``Store``.

    ``on_discard`` is called with a key when bytes of it are taken back, before others take their
    place.
    """

    def __init__(
        self,
        layout: Layout,
        config: StoreConfig,
        *,
        catalog: Catalog,
        blobs: Blobs,
        leases: Leases,
        fsck: Fsck,
        clock: Clock,
        boot: str,
    ) -> None:
        self._layout = layout
        self._catalog = catalog
        self._blobs = blobs
        self._leases = leases
        self._fsck = fsck
        self._clock = clock
        self._boot = boot
        self._fallocate = reserves_natively(layout.root)
        self._lock = threading.Lock()
        self._active: dict[str, str] = {}
        self._open: dict[str, Ingest] = {}
        self._watchers: dict[str, tuple[Callable[[], None], ...]] = {}
        self._discards: Counter[str] = Counter()
        self.on_discard: Callable[[str], object] = lambda _: None
        # Who was given some of a blob that was damaged may hold what others do not go with.
        fsck.on_damaged = lambda sha256: self._count_discard(f"sha256-{sha256}")
        self._rereads = Turns()
        self._drafts = count()
        self._bytes: int | None = None
        self.space = Space(layout, config, self._blob_bytes)

    def begin(self, promise: Promise, owner_job: str) -> Ingest:
        """Starts or resumes the ingest of the promised bytes, with room for them set aside.

        Once committed, the blob is held for ``owner_job`` until ``leases.release_holds``.

        Raises:
            Busy: Another job has this ingest open.
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        key = promise.key
        with self._lock:
            if key in self._active:
                raise Busy("another job, {job}, is fetching the same file", job=self._active[key])
            self._active[key] = owner_job
        ingest = Ingest(
            self._layout.ingest(key),
            promise,
            blobs=self._blobs,
            space=self.space,
            clock=self._clock,
            fallocate=self._fallocate,
            on_verified=lambda came: self._leases.hold(owner_job, came.sha256),
            on_committed=self._record,
            on_closed=lambda: self._end_ingest(key),
            on_moved=lambda: self._tell(key),
            on_discarded=lambda: self._count_discard(key),
        )
        with self._lock:
            # One that ended meanwhile has given its key back.
            if self._active.get(key) == owner_job:
                self._open[key] = ingest
        self._tell(key)
        return ingest

    def opened(self, key: str) -> Ingest | None:
        """Returns the ingest that is open under a promise's key, whoever opened it."""
        return self._open.get(key)

    def discards(self, key: str) -> int:
        """Returns how often bytes that were received under a promise's key were taken back.

        While it stays the same, whoever read bytes of the key's ingests has what will be proven.
        """
        return self._discards[key]

    def watch(self, key: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Has ``callback`` called, from any thread, when anything changed under a key.

        Returns:
            Ends it.
        """
        with self._lock:
            self._watchers[key] = (*self._watchers.get(key, ()), callback)

        def end() -> None:
            with self._lock:
                left = tuple(c for c in self._watchers.pop(key, ()) if c is not callback)
                if left:
                    self._watchers[key] = left

        return end

    def _tell(self, key: str) -> None:
        for callback in self._watchers.get(key, ()):
            callback()

    def _count_discard(self, key: str) -> None:
        with self._lock:
            self._discards[key] += 1
        self.on_discard(key)

    def draft(self, size: int, owner_job: str) -> Draft:
        """Starts a blob that is made here, of ``size`` bytes, with room for them set aside.

        Once committed, the blob is held for ``owner_job`` until ``leases.release_holds``.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """

        def verified(came: Committed) -> None:
            self._leases.hold(owner_job, came.sha256)
            # The same bytes may be here and in doubt: recorded anew they would count as sound.
            self.is_sound(came.sha256, came.size)

        return Draft(
            self._layout.ingest(f"{SCRAP}{os.getpid()}-draft-{next(self._drafts)}"),
            size,
            blobs=self._blobs,
            space=self.space,
            fallocate=self._fallocate,
            on_verified=verified,
            on_committed=self._record,
        )

    def put(self, content: bytes, owner_job: str) -> Committed:
        """Makes a blob of these bytes, held as ``draft`` says.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        with self.draft(len(content), owner_job) as draft:
            draft.write(content)
            return draft.commit()

    def adopt(
        self,
        fd: int,
        promise: Promise | None,
        *,
        link_ok: bool,
        owner_job: str,
        progress: Progress | None = None,
    ) -> Committed:
        """Takes in a file through a descriptor, without a second copy where that can be had.

        Args:
            fd: Open for reading, at any position.
            promise: What the bytes must be, if that is known.
            link_ok: A hard link may stand in for a copy.
            owner_job: The job the blob is held for, until ``leases.release_holds``.
            progress: Called with the bytes of each step; what it raises ends the adoption and
                leaves nothing behind.

        Raises:
            UsageError: Not a regular file, or it changed while it was read.
            DigestMismatch: Not the promised bytes.
            NoSpace: No room for a copy.
            ZhcacheError: The disk failed.
        """
        size = os.fstat(fd).st_size
        with self.space.reserve(size):
            came = self._blobs.adopt_file(
                fd,
                promise,
                size=size,
                link_ok=link_ok,
                progress=progress,
                on_verified=lambda came: self._leases.hold(owner_job, came.sha256),
            )
            self._record(came)
        return came

    def find(self, promise: Promise, owner_job: str | None = None) -> Committed | None:
        """Returns the promised bytes if they are here; with ``owner_job`` they are held for it.

        A blob that somebody touched since it was recorded is read again first.

        Raises:
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        for sha256 in listing.candidates(self._catalog, promise):
            if owner_job is not None:
                self._leases.hold(owner_job, sha256)
            if not self.is_sound(sha256, promise.size):
                continue
            git_sha1 = promise.git_sha1
            if git_sha1 is not None and not listing.is_known_as(self._catalog, sha256, git_sha1):
                git_sha1 = self._blobs.hash(sha256, want_git=True).git_sha1
            if git_sha1 == promise.git_sha1:
                return Committed(sha256, git_sha1, promise.size)
        return None

    def room_needed(self, promise: Promise) -> int:
        """Returns how many bytes more the disk must hold to bring these in.

        A partial download has its blocks already, all of them where they were set aside.
        """
        try:
            found = (self._layout.ingest(promise.key) / "data").stat()
        except FileNotFoundError:
            return promise.size
        return max(0, promise.size - found.st_blocks * 512)

    def unfinished(self) -> list[str]:
        """Returns the keys of the ingests that lie on disk."""
        with os.scandir(self._layout.ingests) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(SCRAP)]

    def is_left(self, key: str) -> bool:
        """Tells whether bytes were received under a key that nobody goes on with now."""
        return key not in self._active and self._layout.ingest(key).exists()

    def is_active(self, key: str) -> bool:
        """Tells whether an ingest is open."""
        return key in self._active

    def is_sound(self, sha256: str, size: int) -> bool:
        """Tells whether a blob is here and as it was recorded; one that was touched is read."""
        found = self._as_recorded(sha256, size)
        if found is None:
            # Many may ask for a model at once whose files were touched: each is read once.
            with self._rereads.of(sha256):
                found = self._as_recorded(sha256, size)
                if found is None:
                    is_sound = bool(self._fsck.recheck(sha256))
                    found = is_sound and self._as_recorded(sha256, size) is not False
                    self.count_again()
        return found

    def _as_recorded(self, sha256: str, size: int) -> bool | None:
        """Tells whether a blob is here with that size; None where only reading it would tell."""
        recorded = listing.recorded(self._catalog, sha256)
        if recorded is None:
            return False
        identity, is_suspect = recorded
        if is_suspect or self._blobs.identity(sha256) != identity:
            return None
        return identity.size == size

    def _record(self, came: Committed) -> None:
        identity = self._blobs.identity(came.sha256)
        if identity is None:
            raise StoreDamaged(reason=f"blob {came.sha256} vanished as it was committed")
        now = self._clock.wall()
        mono = self._clock.monotonic()
        # What is small costs less to fetch again than a sync for which all other files wait; the
        # manifest's is one for all of them.
        with self._catalog.write(durable=came.size >= JOURNAL_BEFORE_COMMIT) as db:
            if self._bytes is not None and listing.recorded(self._catalog, came.sha256) is None:
                self._bytes += came.size
            records.put_blob(db, records.BlobRow(came.sha256, identity, now, now, self._boot, mono))
        hit("commit.after_record")

    def _end_ingest(self, key: str) -> None:
        with self._lock:
            self._active.pop(key, None)
            self._open.pop(key, None)

    def retire(self, key: str) -> Path | None:
        """Moves an ingest that nobody has open aside in one step, before ``begin`` can open it.

        Who was given bytes of it has what others may take the place of.
        """
        with self._lock:
            source = self._layout.ingest(key)
            if key in self._active or not source.exists():
                return None
            self._discards[key] += 1
            self.on_discard(key)
            return source.rename(self._layout.ingest(f"{SCRAP}{os.getpid()}-{key}"))

    def _blob_bytes(self) -> int:
        """Bytes of all blobs, counted along while only commits happen: a sum takes 10 ms a time."""
        with self._catalog.read():
            if self._bytes is None:
                rows = self._catalog.rows("SELECT COALESCE(SUM(size), 0) FROM blobs")
                self._bytes = int(rows[0][0])
            return self._bytes

    def count_again(self) -> None:
        """Forgets the sum of all blobs: some went."""
        self._bytes = None
