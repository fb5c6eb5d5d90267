"""The door of the store: everything the rest of the daemon may do with it.

Thread-safe. Three locks, always taken in this order and never held across a download: the writers'
lock (publish, remove, collect, rebuild), the index's, and the blobs' names'. Removing a snapshot
or a blob goes from what is visible inward, making one visible goes outward, so that a crash in
between leaves something unseen and never something seen and broken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self, TypeVar

from zhcache.errors import IntegrityError, NotFound, NotPermitted
from zhcache.protocol import messages
from zhcache.protocol.names import RepoId, is_commit, parse_repo
from zhcached.clock import Clock
from zhcached.config import StoreConfig
from zhcached.errors import StoreDamaged
from zhcached.store import listing, lockfile, lookup, records, variants
from zhcached.store.blobs import Blobs
from zhcached.store.catalog import Catalog
from zhcached.store.digest import Promise
from zhcached.store.failpoints import hit
from zhcached.store.fsck import Fsck
from zhcached.store.gc import Collector
from zhcached.store.intake import Intake
from zhcached.store.layout import Layout, StoreLock
from zhcached.store.leases import Leases, boot_id
from zhcached.store.mending import Mending
from zhcached.store.quality import Qualities
from zhcached.store.refs import Refs
from zhcached.store.removal import Removal
from zhcached.store.snapshots import Manifest, Manifests, content
from zhcached.store.view import HubView

_S = TypeVar("_S", bound=messages.Snapshot)
_REBUILT = ("files", "snapshots", "blobs", "refs", "pins")


class Store:
    """One store, open. Made by ``Store.open``.

    ``problems`` lists what was found damaged at opening, for the log and ``doctor``.
    """

    def __init__(self, layout: Layout, config: StoreConfig, clock: Clock, lock: StoreLock) -> None:
        self.layout = layout
        self.config = config
        self._clock = clock
        self._lock = lock
        self._boot = boot_id()
        self._writing = threading.RLock()
        self.blobs = Blobs(layout)
        self.manifests = Manifests(layout)
        self.qualities = Qualities(layout)
        self.view = HubView(layout, self.manifests.is_complete)
        self.catalog = Catalog(layout.index)
        self.leases = Leases(self.catalog, clock)
        self._fsck = Fsck(
            layout,
            catalog=self.catalog,
            blobs=self.blobs,
            manifests=self.manifests,
            view=self.view,
            clock=clock,
            boot=self._boot,
        )
        self.intake = Intake(
            layout,
            config,
            catalog=self.catalog,
            blobs=self.blobs,
            leases=self.leases,
            fsck=self._fsck,
            clock=clock,
            boot=self._boot,
        )
        self.space = self.intake.space
        self.mending = Mending(self.manifests, self.view, self._writing)
        self.refs = Refs(self.catalog, self.manifests, self.view, self._writing, self._whole)
        self._removal = Removal(
            catalog=self.catalog,
            leases=self.leases,
            manifests=self.manifests,
            view=self.view,
            fsck=self._fsck,
        )
        self._collector = Collector(
            layout,
            config,
            catalog=self.catalog,
            blobs=self.blobs,
            leases=self.leases,
            clock=clock,
            boot=self._boot,
            is_active=self.intake.is_active,
            retire=self.intake.retire,
            has_lost=lambda: bool(self._fsck.lost()),
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
        if self.catalog.set_aside is not None:
            self._fsck.problems.append(
                f"the index was damaged; it is kept as {self.catalog.set_aside} and made anew"
            )
        with self._writing:
            self._fsck.recover()
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
        """What was found damaged since opening, and has not come back."""
        return [*self._fsck.problems, *self._fsck.damage()]

    # --- snapshots -------------------------------------------------------------------------------

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
            self._fsck.finish_removal(repo, commit)

    def _demand_blobs(self, manifest: Manifest) -> None:
        for file in manifest.files:
            if not self.intake.is_sound(file.sha256, file.size):
                raise IntegrityError(
                    "{path} of {repo} is not in the store",
                    hint="prefetch it again",
                    path=file.path,
                    repo=manifest.repo,
                )

    def resolve(self, repo: RepoId, revision: str | None) -> Manifest:
        """Returns the snapshot that ``revision`` means here, without network.

        Args:
            repo: The repository.
            revision: Branch, tag, commit, the first 7 or more digits of one, or None for
                ``main``, else ``master``, else the newest.

        Raises:
            NotFound: No such snapshot here.
            IntegrityError: Its bytes were found damaged.
            UsageError: The revision is malformed or means several commits.
            StoreDamaged: Index or manifest is damaged.
        """
        return self._whole(repo, lookup.commit_of(self.catalog, repo, revision))

    def variant(self, repo: RepoId, base_commit: str, name: str) -> Manifest:
        """Returns the variant of that name that was made of a snapshot; the newest, if of several.

        Raises:
            NotFound: There is none; the message names those that are here.
            IntegrityError: Its bytes were found damaged.
            StoreDamaged: Index or manifest is damaged.
        """
        return self._whole(repo, variants.commit_of(self.catalog, repo, base_commit, name))

    def variants(self, repo: RepoId, base_commit: str) -> dict[str, Manifest]:
        """Returns the variants that were made of a snapshot, by name, those that miss bytes too.

        Raises:
            StoreDamaged: Index or a manifest is damaged.
        """
        found = variants.named(self.catalog, repo, base_commit)
        return {name: self._read(repo, commits[0]) for name, commits in found.items()}

    def origin(self, repo: RepoId, commit: str) -> tuple[str, str | None]:
        """Returns (what it was made of, its name) of a variant, else (``commit``, None).

        Raises:
            NotFound: No such snapshot here.
            StoreDamaged: The index is damaged.
        """
        return variants.origin(self.catalog, repo, commit)

    def broken_variants(self) -> list[tuple[RepoId, str, str, str]]:
        """Returns (repository, commit made of, name, own commit) of variants that miss bytes.

        No source has these bytes: they are made anew.

        Raises:
            StoreDamaged: The index is damaged.
        """
        return variants.broken(self.catalog)

    def _whole(self, repo: RepoId, commit: str) -> Manifest:
        for sha256, size in listing.suspects(self.catalog, repo, commit):
            self.intake.is_sound(sha256, size)
        if holes := listing.holes_of(self.catalog, repo, commit):
            raise IntegrityError(
                "{path} of {repo} was damaged on disk or is missing",
                hint="run `zhcache repair`",
                path=holes[0],
                repo=repo,
            )
        return self._read(repo, commit)

    def _read(self, repo: RepoId, commit: str) -> Manifest:
        try:
            return self.manifests.read(repo, commit)
        except FileNotFoundError:
            raise StoreDamaged(reason=f"the manifest of {repo} at {commit} is missing") from None

    def snapshots(self) -> list[messages.Snapshot]:
        """Returns every snapshot here, each with the variants that were made of it."""
        return [self._with_quality(each) for each in listing.snapshots(self.catalog, self.view)]

    def detail(
        self, repo: RepoId, revision: str | None, variant: str | None = None
    ) -> messages.SnapshotDetail:
        """Returns one snapshot, or a variant of it, with its files.

        Raises:
            NotFound: No such snapshot or variant here.
            UsageError: The revision is malformed or means several commits.
        """
        commit = lookup.commit_of(self.catalog, repo, revision)
        if variant is not None:
            commit = variants.commit_of(self.catalog, repo, commit, variant)
        found = listing.detail(self.catalog, self.view, self.blobs, repo, commit)
        return self._with_quality(found)

    def _with_quality(self, snapshot: _S) -> _S:
        """Adds what was measured of the variants."""
        repo = parse_repo(snapshot.repo)
        for made in snapshot.variants.values():
            made.quality = self.qualities.of(repo, Path(made.path).name)
        return snapshot

    def sizes(self) -> dict[tuple[str, str], int]:
        """Returns the bytes of each (repository, commit), variants by their own commits."""
        return listing.sizes(self.catalog)

    def space_report(self) -> messages.Space:
        """Returns what takes how much room."""
        return listing.space(self.catalog, self.space, self.config)

    def lock_file(self, repos: Iterable[str]) -> messages.LockFile:
        """Returns the commits and hashes of snapshots here, each named ``OWNER/NAME[@REVISION]``.

        Raises:
            NotFound: One is not here.
            UsageError: A name is malformed, or means a variant.
        """
        return messages.LockFile(
            repos=[lockfile.entry(self.catalog, text, self.resolve) for text in repos]
        )

    # --- letting go ------------------------------------------------------------------------------

    def pin(self, repo: RepoId, uid: int) -> None:
        """Keeps a repository from being removed until the user who pinned it first unpins it.

        Raises:
            NotFound: It is not here.
        """
        with self._writing:
            if not listing.commits(self.catalog, repo):
                raise NotFound("{repo} is not in the store", repo=repo)
            self.manifests.pin(repo, uid)
            with self.catalog.write() as db:
                db.conn.execute("INSERT OR IGNORE INTO pins VALUES (?)", (str(repo),))

    def unpin(self, repo: RepoId, uid: int, *, may_all: bool) -> None:
        """Ends ``pin``; does nothing to a repository that is not pinned.

        Args:
            repo: The repository.
            uid: Who asks. Anybody may end a pin of which it is not known who made it.
            may_all: May end the pins of others too.

        Raises:
            NotPermitted: Another user pinned it.
        """
        with self._writing:
            if not may_all and self.manifests.pinner(repo) not in (None, uid):
                raise NotPermitted(
                    "{repo} was pinned by another user",
                    hint="ask uid {owner} or an administrator to unpin it",
                    repo=repo,
                    owner=self.manifests.pinner(repo),
                )
            self.manifests.unpin(repo)
            with self.catalog.write() as db:
                db.conn.execute("DELETE FROM pins WHERE repo=?", (str(repo),))

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

    # --- checking --------------------------------------------------------------------------------

    def verify(
        self,
        repo: RepoId | None = None,
        progress: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> messages.VerifyResult:
        """Reads every byte, or every byte of a repository; what changed goes to quarantine.

        Raises:
            NotFound: The repository is not here.
            Cancelled: ``stop`` was set.
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        if repo is not None and not listing.commits(self.catalog, repo):
            raise NotFound("{repo} is not in the store", repo=repo)
        try:
            return self._fsck.verify(repo, progress, stop)
        finally:
            self.intake.count_again()

    def lost(self) -> list[tuple[RepoId, str, str]]:
        """Returns (repository, ref, commit) of each snapshot whose manifest was lost."""
        return self._fsck.lost()

    def overdue(self, before: float) -> str | None:
        """Returns the blob that was read longest ago, if that was before a wall-clock time.

        Raises:
            StoreDamaged: The index is damaged.
        """
        rows = self.catalog.rows(
            "SELECT sha256 FROM blobs WHERE verified_at<? ORDER BY verified_at LIMIT 1", (before,)
        )
        return str(rows[0][0]) if rows else None

    def recheck(self, sha256: str, progress: Callable[[int], None]) -> bool | None:
        """Reads one blob: True if sound, False if it is in quarantine now, None if it is gone.

        Raises:
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        try:
            return self._fsck.recheck(sha256, progress)
        finally:
            self.intake.count_again()

    def holes(self, repo: RepoId | None = None) -> list[tuple[RepoId, str, str, Promise]]:
        """Returns (repository, commit, path, promise) of each file whose bytes must be refetched.

        Raises:
            StoreDamaged: The index is damaged.
        """
        return [
            (parse_repo(name), commit, path, Promise(size, sha256, git_sha1))
            for name, commit, path, size, sha256, git_sha1 in self._fsck.holes(repo)
        ]

    def rebuild(self) -> None:
        """Makes index and view anew from manifests and blobs alone, without network.

        Leases, jobs and the health of sources stay, if the index can still be read.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        self.layout.create()
        with self._writing:
            self.catalog.take_back()
            try:
                with self.catalog.write():
                    # A crash before the blobs are read must not turn doubt into trust.
                    doubted = self._fsck.doubted()
                    self.catalog.clear(_REBUILT)
                    self._fsck.reindex(relink=True, doubted=doubted)
            except StoreDamaged:
                self.catalog.start_over()
                self._fsck.reindex(relink=True)
            finally:
                self.intake.count_again()
