"""Index and view brought up to what lies on disk: at start, on ``repair``.

Manifests and blobs on disk are the truth. A crash leaves at most: a blob without a row, a row
without a blob, a manifest newer than its rows, a removal half done, a view half linked. Each is
found by names and inodes alone (``differences``) and carried on.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection

from zhcache.protocol.names import RepoId, parse_repo
from zhcached.errors import StoreDamaged
from zhcached.store import differences, records, schema
from zhcached.store.blobs import Identity
from zhcached.store.context import Context
from zhcached.store.differences import SnapshotRow, Stamp
from zhcached.store.failpoints import hit
from zhcached.store.layout import SCRAP
from zhcached.store.snapshots import Manifest
from zhcached.store.sqlite import Database


class Recovery:
    """Mends one store. Called under the store's writers' lock; made by ``Store``.

    ``problems`` are what was found damaged on the way, for a reader.
    """

    def __init__(self, context: Context) -> None:
        self._layout = context.layout
        self._catalog = context.catalog
        self._blobs = context.blobs
        self._manifests = context.manifests
        self._view = context.view
        self._clock = context.clock
        self._boot = context.boot
        self.problems: list[str] = []
        if (damaged := context.catalog.set_aside) is not None:
            self.problems.append(f"the index was damaged; it is kept as {damaged} and made anew")

    def recover(self) -> None:
        """Carries on what a crash cut short. Only at start, while nothing else is under way.

        Raises:
            NoSpace: No room.
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        self._drop_scraps()
        self.reindex()

    def rebuild(self) -> None:
        """Makes index and view anew from manifests and blobs alone. Jobs may run meanwhile.

        What only the index has stays, if it can still be read.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        self._catalog.take_back()
        try:
            with self._catalog.write():
                # A crash before the blobs are read must not turn doubt into trust.
                doubted = self._doubted()
                self._catalog.clear(schema.REBUILT)
                self.reindex(relink=True, doubted=doubted)
        except StoreDamaged:
            self._catalog.start_over()
            self.reindex(relink=True)

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
                manifest = self.read(repo, commit)
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

    def _doubted(self) -> set[str]:
        """Returns the blobs that must be read before they are trusted, as far as is recorded."""
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
            found = differences.blobs(on_disk, self._recorded())
            # A blob's name is the proof that its bytes were verified: it needs no reading here.
            # When it came is not known, so that its grace time begins now.
            new = [
                records.BlobRow(name, on_disk[name], 0.0, wall, self._boot, mono)
                for name in found.new
            ]
            records.put_blobs(db, new)
            gone = [(name,) for name in found.gone]
            db.conn.executemany("DELETE FROM blobs WHERE sha256=?", gone)
            suspect = [(name,) for name in (*found.touched, *doubted)]
            db.conn.executemany("UPDATE blobs SET suspect=1 WHERE sha256=?", suspect)

    def _mend_snapshots(self) -> list[Manifest]:
        """Carries out what ``differences`` finds; returns the snapshots that were recorded anew."""
        on_disk = {(str(repo), commit): stat for repo, commit, stat in self._manifests.list()}
        stamps = {k: Stamp(s.st_ino, s.st_size, s.st_mtime_ns) for k, s in on_disk.items()}
        changed: list[Manifest] = []
        with self._catalog.write() as db:
            found = differences.snapshots(stamps, _rows(db))
            for repo, commit in found.half_removed:
                self.finish_removal(parse_repo(repo), commit)
            for repo, commit in found.vanished:
                # Nobody removed it: its blobs stay, and ``lost`` says what to fetch again.
                self.problems.append(f"the manifest of {repo} at {commit} is missing")
                records.drop_snapshot(db, repo, commit)
            for repo, commit in found.changed:
                manifest = self.read(parse_repo(repo), commit)
                if manifest is None:
                    records.drop_snapshot(db, repo, commit)
                else:
                    records.put_manifest(db, manifest, on_disk[repo, commit])
                    changed.append(manifest)
        return changed

    def read(self, repo: RepoId, commit: str) -> Manifest | None:
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
            if other == repo and name != commit and (manifest := self.read(repo, name))
        ]
        self._view.remove(repo, commit, others)
        hit("remove.after_view")
        self._manifests.remove(repo, commit)
        hit("remove.after_manifest")
        with self._catalog.write() as db:
            released = records.release_snapshot(db, str(repo), commit)
        hit("remove.after_rows")
        return released


def _rows(db: Database) -> list[SnapshotRow]:
    # A variant goes before what it was made of.
    rows = db.conn.execute(
        "SELECT repo, commit_hash, id, inode, size, mtime_ns, rows_crc, removing FROM snapshots"
        " ORDER BY derived_of IS NULL, id"
    ).fetchall()
    return [
        SnapshotRow((repo, commit), Stamp(*stamp), crc == records.rows_crc(db, row), bool(removing))
        for repo, commit, row, *stamp, crc, removing in rows
    ]
