"""The way in for bytes: from sources, made here, or taken from a file. What came is recorded.

Every blob that comes in is held for the job that brought it from before it has its name, so that no
collection can take it on the way to a manifest.
"""

from __future__ import annotations

import os
from itertools import count

from zhcached.errors import StoreDamaged
from zhcached.store import listing, records
from zhcached.store.closed import marked
from zhcached.store.context import Context
from zhcached.store.digest import Committed, Progress, Promise
from zhcached.store.draft import Draft
from zhcached.store.failpoints import hit
from zhcached.store.ingest import JOURNAL_BEFORE_COMMIT, Ingest
from zhcached.store.ingests import Ingests
from zhcached.store.layout import SCRAP, reserves_natively
from zhcached.store.presence import Presence
from zhcached.store.space import Space


class Intake:
    """The bytes' side of a store. Thread-safe; made by ``Store``.

    Args:
        context: The store's.
        ingests: Told of those that are opened.
        presence: Asked about bytes that are here and come again.
    """

    def __init__(self, context: Context, ingests: Ingests, presence: Presence) -> None:
        self._layout = context.layout
        self._catalog = context.catalog
        self._blobs = context.blobs
        self._leases = context.leases
        self._clock = context.clock
        self._boot = context.boot
        self._ingests = ingests
        self._presence = presence
        self._fallocate = reserves_natively(context.layout.root)
        self._drafts = count()
        self._bytes: int | None = None
        self.space = Space(context.layout, context.config, self._blob_bytes)

    def begin(self, promise: Promise, owner_job: str, closed: str | None = None) -> Ingest:
        """Starts or resumes the ingest of the promised bytes, with room for them set aside.

        Once committed, the blob is held for ``owner_job`` until ``leases.release_holds``.

        Args:
            promise: What the bytes must turn out to be.
            owner_job: Who brings them.
            closed: The repository that they come for, where not everybody may read it.

        Raises:
            Busy: Another job has this ingest open.
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        key = promise.key
        self._ingests.take(key, owner_job)
        ingest = Ingest(
            self._layout.ingest(key),
            promise,
            blobs=self._blobs,
            space=self.space,
            clock=self._clock,
            fallocate=self._fallocate,
            on_verified=lambda came: self._leases.hold(owner_job, came.sha256),
            on_committed=self._record,
            on_closed=lambda: self._ingests.give_back(key),
            on_moved=lambda: self._ingests.moved(key),
            on_discarded=lambda: self._ingests.discarded(key),
        )
        try:
            # Before anybody finds it, and before the first byte.
            ingest.closed = marked(self._layout.ingest(key), closed)
        except BaseException:
            ingest.close()
            raise
        self._ingests.show(ingest, owner_job)
        return ingest

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
            self._presence.is_sound(came.sha256, came.size)

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
