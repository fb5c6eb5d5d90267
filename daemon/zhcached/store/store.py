"""The door of the store: everything the rest of the daemon may do with it.

Thread-safe. Three locks, always taken in this order and never held across a download: the writers'
lock (publish, remove, collect, rebuild), the index's, and the blobs' names'. Removing a snapshot
or a blob goes from what is visible inward, making one visible goes outward, so that a crash in
between leaves something unseen and never something seen and broken.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from zhcache.errors import IntegrityError
from zhcache.protocol import messages
from zhcache.protocol.names import RepoId, is_commit
from zhcached.clock import Clock
from zhcached.config import StoreConfig
from zhcached.store import listing, lookup, records, variants
from zhcached.store.checks import Checks
from zhcached.store.collector import Collector
from zhcached.store.context import Context
from zhcached.store.failpoints import hit
from zhcached.store.holdings import Holdings
from zhcached.store.ingests import Ingests
from zhcached.store.intake import Intake
from zhcached.store.layout import Layout, StoreLock
from zhcached.store.mending import Mending
from zhcached.store.pins import Pins
from zhcached.store.presence import Presence
from zhcached.store.recovery import Recovery
from zhcached.store.refs import Refs
from zhcached.store.removal import Removal
from zhcached.store.snapshots import Manifest, content


class Store(Holdings):
    """One store, open. Made by ``Store.open``."""

    def __init__(self, layout: Layout, config: StoreConfig, clock: Clock, lock: StoreLock) -> None:
        context = Context.open(layout, config, clock)
        self._recovery = Recovery(context)
        self.checks = Checks(context, self._recovery)
        self.ingests = Ingests(layout)
        self.checks.on_damaged = self.ingests.lost
        presence = Presence(context, self.checks)
        self.intake = Intake(context, self.ingests, presence)
        self.checks.on_forgotten = self.intake.count_again
        super().__init__(context, presence, self.intake.space)
        self._lock = lock
        self._writing = context.writing
        self.leases = context.leases
        self.mending = Mending(context)
        self.pins = Pins(context)
        self.refs = Refs(context, self._whole)
        self._removal = Removal(context, self._recovery)
        self._collector = Collector(
            context,
            is_active=self.ingests.is_active,
            retire=self.ingests.retire,
            has_lost=lambda: bool(self.checks.lost()),
        )

    @classmethod
    def open(cls, root: Path, config: StoreConfig, clock: Clock) -> Self:
        """Opens the store at ``root``, made if it is not there, and mends what a crash left.

        Raises:
            AlreadyRunning: Another daemon has it.
            NotPermitted: On a file system where it would not be safe.
            VersionMismatch: Written by another version.
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        layout = Layout(root.absolute())
        layout.check(force=config.force)
        lock = layout.take_lock()
        try:
            layout.create()
            store = cls(layout, config, clock, lock)
            try:
                store._start()
            except BaseException:
                store.catalog.close()
                raise
        except BaseException:
            lock.release()
            raise
        return store

    def _start(self) -> None:
        with self._writing:
            self._recovery.recover()
        self.leases.prune_dead()

    def close(self) -> None:
        """Closes the store and lets another daemon have it."""
        self.catalog.close()
        self._lock.release()

    def is_ours(self) -> bool:
        """Tells whether no other daemon can have opened this store meanwhile."""
        return self._lock.holds(self.layout.root / "lock")

    @property
    def problems(self) -> list[str]:
        """What was found damaged since opening and has not come back, for log and ``doctor``."""
        return [*self._recovery.problems, *self.checks.damage()]

    def publish(self, manifest: Manifest, ref: str | None) -> Path:
        """Makes a snapshot visible whole, then moves the ref; returns the snapshot's folder.

        Raises:
            ValueError: A ref to a variant.
            IntegrityError: A blob is missing, or a file contradicts what is known of the commit.
            NoSpace: No room.
            StoreDamaged: Index or manifest is damaged.
            ZhcacheError: The disk failed.
        """
        if manifest.derived is not None and ref is not None:
            raise ValueError("a ref points at what a hub has, not at a variant")
        repo = manifest.repo_id
        hold = f"publish:{repo}@{manifest.commit}"
        with self._writing:
            for file in manifest.files:
                self.leases.hold(hold, file.sha256)
            try:
                self._demand_blobs(manifest)
                if manifest.derived is not None:
                    self._make_way(manifest)
                hit("publish.before_manifest")
                whole = self.manifests.write(manifest)
                hit("publish.after_manifest")
                folder = self.view.publish(whole)
                hit("publish.after_view")
                # Rows are what ``resolve`` sees, so they come once all else is there. A crash
                # before them leaves a manifest newer than its rows; the next start carries on.
                with self.catalog.write() as db:
                    stat = self.layout.manifest(repo, manifest.commit).stat()
                    records.put_manifest(db, whole, stat)
                hit("publish.after_rows")
                if ref is not None:
                    self.refs.move(repo, ref, manifest.commit)
            finally:
                self.leases.release_holds(hold)
        return folder

    def _make_way(self, manifest: Manifest) -> None:
        """Takes a variant away that misses bytes and is made anew with others."""
        repo, commit = manifest.repo_id, manifest.commit
        is_broken = bool(listing.holes_of(self.catalog, repo, commit))
        if is_broken and content(self._read(repo, commit)) != content(manifest):
            self._recovery.finish_removal(repo, commit)

    def _demand_blobs(self, manifest: Manifest) -> None:
        for file in manifest.files:
            if not self.presence.is_sound(file.sha256, file.size):
                raise IntegrityError(
                    "{path} of {repo} is not in the store",
                    hint="prefetch it again",
                    path=file.path,
                    repo=manifest.repo,
                )

    def remove(
        self,
        repo: RepoId,
        revision: str | None,
        uid: int | None = None,
        *,
        may_all: bool = True,
        even_named: bool = True,
    ) -> messages.Removed:
        """Removes one snapshot, or all of a repository, and the variants that were made of them.

        ``gc`` then frees the bytes at once.

        Args:
            repo: The repository.
            revision: Branch, tag or commit of the snapshot; None means all.
            uid: Who asks.
            may_all: May remove what others brought here too.
            even_named: Otherwise nothing goes that a branch or tag names.

        Raises:
            NotFound: Nothing such is here.
            NotPermitted: Another user brought one of them here; nothing was removed.
            Busy: Somebody leases it, the message names who; or a branch names it.
            UsageError: The repository is pinned, or the revision is malformed.
            ZhcacheError: The disk failed.
        """
        with self._writing:
            commits, made = lookup.to_remove(self.catalog, repo, revision)
            if not even_named:
                lookup.check_unnamed(self.catalog, repo, commits)
            return self._removal.run(repo, commits, made, uid, may_all=may_all)

    def remove_variant(
        self,
        repo: RepoId,
        base: str | None,
        name: str,
        uid: int | None = None,
        *,
        may_all: bool = True,
    ) -> messages.Removed:
        """Removes a variant; what it was made of stays.

        Args:
            repo: The repository.
            base: Branch, tag or commit of what it was made of; None means any.
            name: The variant.
            uid: Who asks.
            may_all: May remove what others had made too.

        Raises:
            NotFound: There is none; the message names those that are here.
            NotPermitted: Another user had it made; nothing was removed.
            Busy: Somebody leases it; the message names who.
            UsageError: The repository is pinned.
            ZhcacheError: The disk failed.
        """
        with self._writing:
            if base is not None and not is_commit(base):
                base = lookup.commit_of(self.catalog, repo, base)
            commits = variants.commits_of(self.catalog, repo, base, name)
            made = dict.fromkeys(commits, name)
            return self._removal.run(repo, [], made, uid, may_all=may_all)

    def release(self, blobs: Iterable[str]) -> None:
        """Says of blobs that nobody wants them, unless a snapshot has them: the next ``gc`` takes
        them, once no job holds them.

        Raises:
            StoreDamaged: The index is damaged.
        """
        with self._writing, self.catalog.write() as db:
            records.release_blobs(db, blobs)

    def gc(self, *, dry_run: bool = False) -> messages.GcReport:
        """Frees what nothing needs, and says why the rest stays.

        Raises:
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        if dry_run:
            return self._collector.collect(dry_run=True)
        with self._writing:
            self.leases.prune_dead()
            try:
                return self._collector.collect(dry_run=False)
            finally:
                self.intake.count_again()

    def rebuild(self) -> None:
        """Makes index and view anew from manifests and blobs alone, without network.

        Leases, jobs and the health of sources stay, if the index can still be read.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        self.layout.create()
        with self._writing:
            try:
                self._recovery.rebuild()
            finally:
                self.intake.count_again()
