"""The tables of the index, and how a file of an earlier version becomes one of this."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from zhcached.store.sqlite import Database

VERSION: Final = 2
# In place, since leases, jobs and doubt about blobs are in no other file.
UPGRADES: Final[dict[int, tuple[str, ...]]] = {
    1: (
        "ALTER TABLE snapshots ADD COLUMN derived_of TEXT",
        "ALTER TABLE snapshots ADD COLUMN variant TEXT",
    ),
}
TABLES: Final[dict[str, dict[str, Any]]] = {
    "blobs": {
        "columns": {
            "sha256": str, "size": int, "inode": int, "mtime_ns": int, "ctime_ns": int,
            "verified_at": float, "committed_at": float, "boot": str, "mono": float,
            "released": int, "suspect": int,
        },
        "pk": "sha256",
    },
    "snapshots": {
        "columns": {
            "id": int, "repo": str, "commit_hash": str, "created": float, "source": str,
            "trust": str, "uid": int, "complete": int, "removing": int, "rows_crc": int,
            "inode": int, "size": int, "mtime_ns": int, "derived_of": str, "variant": str,
        },
        "pk": "id",
    },
    "files": {
        "columns": {
            "snapshot": int, "path": str, "size": int, "sha256": str, "git_sha1": str,
            "trust": str,
        },
        "pk": ("snapshot", "path"),
        "foreign_keys": [("snapshot", "snapshots", "id")],
    },
    "refs": {"columns": {"repo": str, "ref": str, "commit_hash": str}, "pk": ("repo", "ref")},
    "pins": {"columns": {"repo": str}, "pk": "repo"},
    "leases": {
        "columns": {
            "id": str, "repo": str, "commit_hash": str, "uid": int, "pid": int,
            "pid_start": int, "granted": float,
        },
        "pk": "id",
    },
    "jobs": {
        "columns": {
            "id": str, "key": str, "kind": str, "state": str, "uid": int, "created": float,
            "updated": float, "record": bytes,
        },
        "pk": "id",
    },
    "source_health": {"columns": {"name": str, "record": bytes}, "pk": "name"},
}  # fmt: skip
INDEXES: Final = (
    ("snapshots", ["repo", "commit_hash"], True),
    ("files", ["sha256"], False),
    ("files", ["git_sha1"], False),
    ("leases", ["repo", "commit_hash"], False),
    ("jobs", ["state", "updated"], False),
)
OWN: Final = ("leases", "jobs", "source_health")
"""Tables of what is in no other file."""
REBUILT: Final = ("files", "snapshots", "blobs", "refs", "pins")
"""Tables of what lies on disk as well, in an order in which they can be emptied."""


def create(db: Database) -> None:
    """Makes all tables in an empty file, in one transaction."""
    with db.atomic():
        for name, shape in TABLES.items():
            db.table(name).create(
                shape["columns"], pk=shape["pk"], foreign_keys=shape.get("foreign_keys", ())
            )
        for table, columns, unique in INDEXES:
            db.table(table).create_index(columns, unique=unique)
        db.conn.execute(f"PRAGMA user_version={VERSION}")


def upgrade(db: Database, version: int) -> None:
    """Brings an earlier version's file up to this one, in one transaction."""
    with db.atomic():
        for step in range(version, VERSION):
            for statement in UPGRADES[step]:
                db.conn.execute(statement)
        db.conn.execute(f"PRAGMA user_version={VERSION}")


def check(db: Database) -> None:
    """Refuses a file that is damaged or that this version did not make.

    Raises:
        sqlite3.DatabaseError: It is one.
    """
    version = db.conn.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise sqlite3.DatabaseError(f"malformed: version {version} is another zhcache's")
    verdict = db.conn.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"malformed: {verdict}")
    for name, shape in TABLES.items():
        found = [row[1] for row in db.conn.execute(f"PRAGMA table_info({name})")]
        if found != list(shape["columns"]):
            raise sqlite3.DatabaseError(f"malformed: table {name} is not as this version makes it")
