"""Rows of the index, made from what lies on disk, in the caller's transaction."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable

import msgspec

from zhcached.store.blobs import Identity
from zhcached.store.snapshots import Manifest
from zhcached.store.sqlite import Database


class BlobRow(msgspec.Struct, frozen=True):
    """A blob as it is recorded.

    ``boot`` and ``mono`` say when it came, on a clock that nobody can set.
    """

    sha256: str
    identity: Identity
    verified_at: float
    committed_at: float
    boot: str
    mono: float


def put_blob(db: Database, row: BlobRow) -> None:
    """Records a blob; one that was released or suspect no longer is."""
    put_blobs(db, [row])


def put_blobs(db: Database, rows: list[BlobRow]) -> None:
    """Records blobs; ones that were released or suspect no longer are."""
    db.conn.executemany(
        "INSERT OR REPLACE INTO blobs VALUES (?,?,?,?,?,?,?,?,?,0,0)",
        [
            (
                row.sha256,
                row.identity.size,
                row.identity.inode,
                row.identity.mtime_ns,
                row.identity.ctime_ns,
                row.verified_at,
                row.committed_at,
                row.boot,
                row.mono,
            )
            for row in rows
        ],
    )


def put_manifest(db: Database, manifest: Manifest, found: os.stat_result) -> None:
    """Records a snapshot and its files in place of what was recorded of it."""
    repo, commit, derived = str(manifest.repo_id), manifest.commit, manifest.derived
    drop_snapshot(db, repo, commit)
    cursor = db.conn.execute(
        "INSERT INTO snapshots (repo, commit_hash, created, source, trust, uid, complete,"
        " removing, rows_crc, inode, size, mtime_ns, derived_of, variant)"
        " VALUES (?,?,?,?,?,?,?,0,0,?,?,?,?,?)",
        (
            repo,
            commit,
            manifest.created,
            manifest.source,
            manifest.trust,
            manifest.uid,
            int(manifest.complete),
            found.st_ino,
            found.st_size,
            found.st_mtime_ns,
            derived.of if derived else None,
            derived.variant if derived else None,
        ),
    )
    snapshot = int(cursor.lastrowid or 0)
    db.conn.executemany(
        "INSERT INTO files VALUES (?,?,?,?,?,?)",
        [(snapshot, f.path, f.size, f.sha256, f.git_sha1, f.trust) for f in manifest.files],
    )
    db.conn.execute(
        "UPDATE snapshots SET rows_crc=? WHERE id=?", (rows_crc(db, snapshot), snapshot)
    )
    db.conn.execute(
        "UPDATE blobs SET released=0 WHERE released AND sha256 IN"
        " (SELECT sha256 FROM files WHERE snapshot=?)",
        (snapshot,),
    )


def drop_snapshot(db: Database, repo: str, commit: str) -> None:
    """Forgets a snapshot and its files."""
    where = "(SELECT id FROM snapshots WHERE repo=? AND commit_hash=?)"
    db.conn.execute(f"DELETE FROM files WHERE snapshot IN {where}", (repo, commit))  # noqa: S608
    db.conn.execute("DELETE FROM snapshots WHERE repo=? AND commit_hash=?", (repo, commit))


def release_snapshot(db: Database, repo: str, commit: str) -> int:
    """Forgets a snapshot, marks as released what nothing else uses, and returns those bytes."""
    orphaned = (
        "sha256 IN (SELECT f.sha256 FROM files f JOIN snapshots s ON s.id=f.snapshot"
        " WHERE s.repo=:repo AND s.commit_hash=:commit)"
        " AND NOT EXISTS (SELECT 1 FROM files f JOIN snapshots s ON s.id=f.snapshot"
        " WHERE f.sha256=blobs.sha256 AND NOT (s.repo=:repo AND s.commit_hash=:commit))"
    )
    names = {"repo": repo, "commit": commit}
    sql = f"SELECT COALESCE(SUM(size), 0) FROM blobs WHERE {orphaned}"  # noqa: S608
    released = int(db.conn.execute(sql, names).fetchone()[0])
    db.conn.execute(f"UPDATE blobs SET released=1 WHERE {orphaned}", names)  # noqa: S608
    drop_snapshot(db, repo, commit)
    return released


def release_blobs(db: Database, blobs: Iterable[str]) -> None:
    """Marks as released which of these blobs no snapshot has."""
    db.conn.executemany(
        "UPDATE blobs SET released=1 WHERE sha256=?"
        " AND NOT EXISTS (SELECT 1 FROM files f WHERE f.sha256=blobs.sha256)",
        [(sha256,) for sha256 in blobs],
    )


def rows_crc(db: Database, snapshot: int) -> int:
    """Returns a checksum over what a snapshot was made of and its file rows.

    SQLite has none of its own: a flipped bit in a stored digest would make the collection take a
    blob that is in use for garbage.
    """
    of, variant = db.conn.execute(
        "SELECT derived_of, variant FROM snapshots WHERE id=?", (snapshot,)
    ).fetchone()
    crc = zlib.crc32(f"{of}\0{variant}".encode()) if of is not None else 0
    for row in db.conn.execute(
        "SELECT path, size, sha256, git_sha1, trust FROM files WHERE snapshot=? ORDER BY path",
        (snapshot,),
    ):
        crc = zlib.crc32("\0".join(map(str, row)).encode(), crc)
    return crc
