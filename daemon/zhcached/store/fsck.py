"""Disk and index brought together: at start, on ``verify``, on ``repair``.

Manifests and blobs on disk are the truth. A crash leaves at most: a blob without a row, a row
without a blob, a manifest newer than its rows, a removal half done, a view half linked. ``reindex``
finds each by looking at names and inodes alone and carries it on; ``verify`` reads every byte.
"""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable, Collection
from typing import Final

from zhcache.errors import Cancelled
from zhcache.protocol.messages import DamagedBlob, VerifyResult
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.clock import Clock
from zhcached.errors import StoreDamaged
from zhcached.store import files, listing, records, variants
from zhcached.store.blobs import Blobs, Identity
from zhcached.store.catalog import Catalog
from zhcached.store.failpoints import hit
from zhcached.store.layout import SCRAP, Layout
from zhcached.store.snapshots import Manifest, Manifests
from zhcached.store.view import HubView

# What the disk says of bytes it has lost, and the kernel of a link or a folder in a blob's place.
# Any other error, no descriptor left for one, says nothing about the blob.
_DAMAGE: Final = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ELOOP, errno.EISDIR)


class Fsck:
    """Checks and mends one store. The store serialises ``reindex`` with its other writers.

    Args:
        layout: Where the store lies.
        catalog: The index.
        blobs: The blobs.
        manifests: The manifests.
        view: The Hugging Face view.
        clock: For what is recorded.
        boot: Name of this boot.

    ``on_damaged`` is called with a blob's name before the blob is set aside.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        catalog: Catalog,
        blobs: Blobs,
        manifests: Manifests,
        view: HubView,
        clock: Clock,
        boot: str,
    ) -> None:
        self._layout = layout
        self._catalog = catalog
        self._blobs = blobs
        self._manifests = manifests
        self._view = view
        self._clock = clock
        self._boot = boot
        self.problems: list[str] = []
        self._damaged: dict[str, str] = {}
        self.on_damaged: Callable[[str], object] = lambda _: None

    def damage(self) -> list[str]:
        """Returns what was found wrong with blobs that have not come back since."""
        found = list(self._damaged.items())
        return [told for sha256, told in found if self._blobs.identity(sha256) is None]

    # --- bringing the index up to the disk -------------------------------------------------------

    def recover(self) -> None:
        """Carries on what a crash cut short. Only at start, while nothing else is under way.

        Raises:
            NoSpace: No room.
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        self._drop_scraps()
        self.reindex()

    def reindex(self, *, relink: bool = False, doubted: Collection[str] = ()) -> None:
        """Makes index and view say what manifests and blobs say. Jobs may run meanwhile.

        Args:
            relink: Make the view of every snapshot again, not only of changed ones.
            doubted: Blobs that must be read before they are trusted again.

        Raises:
            NoSpace: No room.
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        self._mend_blobs(doubted)
        changed = {(m.repo, m.commit): m for m in self._mend_snapshots()}
        for repo, commit, _ in self._manifests.list():
            manifest = changed.get((str(repo), commit))
            is_gone = not self._view.snapshot_dir(repo, commit).is_dir()
            if manifest is None and (relink or is_gone):
                manifest = self._read(repo, commit)
            if manifest is not None:
                self._view.publish(manifest)
        self._mend_refs()

    def _drop_scraps(self) -> None:
        """Deletes what only a dead process could have used; a running import's looks the same.

        That is imports, unfinished writes, and ingests whose bytes got their name just before.
        """
        for path in self._layout.ingests.iterdir():
            if path.name.startswith(SCRAP) or not (path / "data").exists():
                shutil.rmtree(path, ignore_errors=True)
        for path in self._layout.repos.glob("*/*/.*.tmp"):
            path.unlink(missing_ok=True)
        for path in self._layout.quarantine.glob("view-*"):
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)

    def doubted(self) -> set[str]:
        """Returns the blobs that must be read before they are trusted, as far as is recorded.

        Raises:
            StoreDamaged: The index is damaged.
        """
        flagged = self._catalog.rows("SELECT sha256 FROM blobs WHERE suspect")
        touched = (n for n, was in self._recorded().items() if self._blobs.identity(n) != was)
        return {str(row[0]) for row in flagged}.union(touched)

    def _recorded(self) -> dict[str, Identity]:
        rows = self._catalog.rows("SELECT sha256, size, inode, mtime_ns, ctime_ns FROM blobs")
        return {str(name): Identity(*map(int, identity)) for name, *identity in rows}

    def _mend_blobs(self, doubted: Collection[str]) -> None:
        wall, mono = self._clock.wall(), self._clock.monotonic()
        with self._catalog.write() as db:
            # Inside: a blob recorded between the look at the disk and this would lose its row.
            on_disk = dict(self._blobs.list())
            known = self._recorded()
            # A blob's name is the proof that its bytes were verified: it needs no reading here.
            # When it came is not known, so that its grace time begins now.
            new = [
                records.BlobRow(name, found, 0.0, wall, self._boot, mono)
                for name, found in on_disk.items()
                if name not in known
            ]
            records.put_blobs(db, new)
            gone = [(name,) for name in known if name not in on_disk]
            db.conn.executemany("DELETE FROM blobs WHERE sha256=?", gone)
            touched = [(n,) for n, was in known.items() if on_disk.get(n, was) != was]
            touched += [(name,) for name in doubted]
            db.conn.executemany("UPDATE blobs SET suspect=1 WHERE sha256=?", touched)

    def _mend_snapshots(self) -> list[Manifest]:
        on_disk = {(str(repo), commit): stat for repo, commit, stat in self._manifests.list()}
        rows = self._catalog.rows(
            "SELECT repo, commit_hash, id, inode, size, mtime_ns, rows_crc, removing FROM snapshots"
            " ORDER BY derived_of IS NULL, id"  # a variant goes before what it was made of
        )
        changed: list[Manifest] = []
        sound: set[tuple[str, str]] = set()
        with self._catalog.write() as db:
            for repo, commit, row, inode, size, mtime, crc, removing in rows:
                stat = on_disk.get((repo, commit))
                if removing:
                    self.finish_removal(parse_repo(repo), commit)
                    on_disk.pop((repo, commit), None)
                    continue
                if stat is None:
                    # Nobody removed it: its blobs stay, and ``lost`` says what to fetch again.
                    self.problems.append(f"the manifest of {repo} at {commit} is missing")
                    records.drop_snapshot(db, repo, commit)
                    continue
                is_same = (stat.st_ino, stat.st_size, stat.st_mtime_ns) == (inode, size, mtime)
                if is_same and crc == records.rows_crc(db, row):
                    sound.add((repo, commit))
            for (repo, commit), stat in on_disk.items():
                if (repo, commit) in sound:
                    continue
                manifest = self._read(parse_repo(repo), commit)
                if manifest is None:
                    records.drop_snapshot(db, repo, commit)
                else:
                    records.put_manifest(db, manifest, stat)
                    changed.append(manifest)
        return changed

    def _read(self, repo: RepoId, commit: str) -> Manifest | None:
        """Returns a manifest; a damaged one is moved to quarantine and noted."""
        try:
            return self._manifests.read(repo, commit)
        except StoreDamaged as error:
            self.problems.append(str(error))
            path = self._layout.manifest(repo, commit)
            path.replace(self._layout.quarantine / f"{repo.folder}-{commit}.json")
        except FileNotFoundError:
            pass
        return None

    def _mend_refs(self) -> None:
        """Takes refs and pins from disk. A ref to a lost snapshot stays there, unseen."""
        held = {
            (str(r), str(c))
            for r, c in self._catalog.rows("SELECT repo, commit_hash FROM snapshots")
        }
        refs: list[tuple[str, str, str]] = []
        pins: list[tuple[str]] = []
        for repo in self._manifests.repos():
            for ref, commit in self._manifests.refs(repo).items():
                if (str(repo), commit) in held:
                    refs.append((str(repo), ref, commit))
                    self._view.set_ref(repo, ref, commit)
                else:
                    self._view.remove_ref(repo, ref)
            if self._manifests.pinned(repo):
                pins.append((str(repo),))
        with self._catalog.write() as db:
            db.conn.execute("DELETE FROM refs")
            db.conn.execute("DELETE FROM pins")
            db.conn.executemany("INSERT INTO refs VALUES (?,?,?)", refs)
            db.conn.executemany("INSERT INTO pins VALUES (?)", pins)

    def finish_removal(self, repo: RepoId, commit: str) -> int:
        """Takes a snapshot, whose refs are gone, out of view, disk and index, in this order.

        Returns:
            Bytes that nothing references any more.
        """
        others = [
            manifest
            for other, name, _ in self._manifests.list()
            if other == repo and name != commit and (manifest := self._read(repo, name))
        ]
        self._view.remove(repo, commit, others)
        hit("remove.after_view")
        self._manifests.remove(repo, commit)
        hit("remove.after_manifest")
        with self._catalog.write() as db:
            released = records.release_snapshot(db, str(repo), commit)
        hit("remove.after_rows")
        return released

    # --- reading the bytes -----------------------------------------------------------------------

    def verify(
        self,
        repo: RepoId | None,
        progress: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> VerifyResult:
        """Reads every blob, or every blob of a repository, and sets aside those that changed.

        Args:
            repo: Only this repository's, or all.
            progress: Called with the bytes read in each step.
            stop: Ends the run when set.

        Raises:
            Cancelled: ``stop`` was set.
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        result = VerifyResult(checked=0, bytes=0)

        def step(count: int) -> None:
            if stop is not None and stop.is_set():
                raise Cancelled("the check was cancelled")
            result.bytes += count
            if progress is not None:
                progress(count)

        for sha256, size in self._to_read(repo):
            step(0)
            verdict = self.recheck(sha256, step)
            result.checked += verdict is not None
            if verdict is False:
                used_by = self._users(sha256)
                result.damaged.append(DamagedBlob(sha256=sha256, size=size, used_by=used_by))
        result.missing = self._missing(repo)
        return result

    def recheck(self, sha256: str, progress: Callable[[int], None] | None = None) -> bool | None:
        """Reads one blob: True if it is sound, False if it was not and is now in quarantine.

        Returns:
            None if there is no such blob; its row is then gone as well.

        Raises:
            OSError: It could not be read, which says nothing about its bytes.
            ZhcacheError: The disk failed.
        """
        before = self._blobs.identity(sha256)
        told = f"blob {sha256} was damaged and is in quarantine"
        try:
            is_sound = self._blobs.hash(sha256, progress=progress).sha256 == sha256
        except FileNotFoundError:
            self._forget(sha256)
            return None
        except OSError as error:
            if error.errno not in _DAMAGE:
                with files.disk_errors(self._blobs.path(sha256)):
                    raise
            told = f"blob {sha256}: {error.strerror}"
            is_sound = False
        if is_sound:
            if before is not None:
                self._settle(sha256, before)
            return True
        self.on_damaged(sha256)
        self._blobs.set_aside(sha256)
        self._forget(sha256)
        self._damaged[sha256] = told
        return False

    def _settle(self, sha256: str, identity: Identity) -> None:
        """Records what was just read. Of a blob collected meanwhile there is no row to touch."""
        with self._catalog.write() as db:
            db.conn.execute(
                "UPDATE blobs SET suspect=0, verified_at=?, size=?, inode=?, mtime_ns=?,"
                " ctime_ns=? WHERE sha256=?",
                (
                    self._clock.wall(),
                    identity.size,
                    identity.inode,
                    identity.mtime_ns,
                    identity.ctime_ns,
                    sha256,
                ),
            )

    def _forget(self, sha256: str) -> None:
        with self._catalog.write() as db:
            db.conn.execute("DELETE FROM blobs WHERE sha256=?", (sha256,))

    def _to_read(self, repo: RepoId | None) -> list[tuple[str, int]]:
        if repo is None:
            rows = self._catalog.rows("SELECT sha256, size FROM blobs ORDER BY sha256")
        else:
            rows = self._catalog.rows(
                "SELECT DISTINCT b.sha256, b.size FROM blobs b JOIN files f ON f.sha256=b.sha256"
                " JOIN snapshots s ON s.id=f.snapshot WHERE s.repo=? ORDER BY 1",
                (str(repo),),
            )
        return [(str(sha256), int(size)) for sha256, size in rows]

    def _users(self, sha256: str) -> list[str]:
        """Returns the repositories that have a blob; where only variants have it, those."""
        rows = self._catalog.rows(
            "SELECT DISTINCT s.repo, s.derived_of, s.variant FROM files f JOIN snapshots s"
            " ON s.id=f.snapshot WHERE f.sha256=? ORDER BY 1, 2, 3",
            (sha256,),
        )
        owners = dict.fromkeys(str(repo) for repo, of, _ in rows if of is None)
        made = [variants.label(repo, of, v) for repo, of, v in rows if of and repo not in owners]
        return [*owners, *made]

    def lost(self, repo: RepoId | None = None) -> list[tuple[RepoId, str, str]]:
        """Returns (repository, ref, commit) of each ref whose snapshot's manifest is gone.

        Removal drops refs and variants before manifests, so that one is left by damage alone. Of
        what only a variant was made of, the commit stands for a ref.
        """
        refs = [
            (held, ref, commit)
            for held in self._manifests.repos()
            if repo is None or held == repo
            for ref, commit in self._manifests.refs(held).items()
            if not self._layout.manifest(held, commit).exists()
        ]
        named = {(str(held), commit) for held, _, commit in refs}
        bases = {(name, of) for name, of, _ in variants.orphaned(self._catalog, repo)} - named
        return refs + [(parse_repo(name), of, of) for name, of in sorted(bases)]

    def _missing(self, repo: RepoId | None) -> list[str]:
        for held, commit, _ in self._manifests.list():
            if repo is None or held == repo:
                self._read(held, commit)
        files = [f"{name} {path}" for name, _, path, _, _, _ in self.holes(repo)]
        files += [
            f"{variants.label(str(held), of, name)} {path}"
            for held, of, name, commit in variants.broken(self._catalog, repo)
            for path in listing.holes_of(self._catalog, held, commit)
        ]
        return files + [f"{held} {ref}: its manifest" for held, ref, _ in self.lost(repo)]

    def holes(self, repo: RepoId | None) -> list[tuple[str, str, str, int, str, str | None]]:
        """Returns (repo, commit, path, size, sha256, git sha1) of files whose blob is not here.

        Those of variants are not among them: no source has them.
        """
        rows = self._catalog.rows(
            "SELECT s.repo, s.commit_hash, f.path, f.size, f.sha256, f.git_sha1 FROM files f"
            " JOIN snapshots s ON s.id=f.snapshot WHERE s.derived_of IS NULL"
            " AND (? IS NULL OR s.repo=?) AND NOT EXISTS"
            " (SELECT 1 FROM blobs b WHERE b.sha256=f.sha256) ORDER BY 1, 2, 3",
            (str(repo) if repo else None, str(repo) if repo else None),
        )
        return [tuple(row) for row in rows]  # pyright: ignore[reportReturnType]
