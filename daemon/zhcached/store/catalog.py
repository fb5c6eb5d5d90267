"""The index: SQLite through sqlite-utils, a cache of what manifests and blobs say.

One connection, one lock, BEGIN IMMEDIATE for what reads and then writes (a deferred transaction
fails at once when it upgrades). ``synchronous=FULL``, because leases and jobs are only here. No
mmap: SQLite before 3.51.3 has a WAL bug that it widens. Every error of SQLite stops here.

A file that is damaged or of a version that is not known here is never mended in place: it is set
aside as ``index.sqlite.damaged-N``, and the store rebuilds a fresh one from disk. One of an earlier
version is brought up to this one.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Generator, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

from zhcache.errors import NoSpace, ZhcacheError
from zhcached.errors import StoreDamaged
from zhcached.store import schema
from zhcached.store.files import disk_errors
from zhcached.store.sqlite import Database

_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "mmap_size=0",
    "temp_store=MEMORY",
    "journal_size_limit=67108864",
)


class Catalog:
    """The index of one store. Thread-safe; calls are short.

    Args:
        path: The SQLite file. Its folder is on a local disk.

    Raises:
        NoSpace: No room.
        ZhcacheError: The disk failed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self.set_aside: Path | None = None
        self.is_new = not path.exists()
        with _sqlite_errors(path):
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                    raise
                self.set_aside = self._move_aside()
                self.is_new = True
                self._db = self._open()

    def _open(self) -> Database:
        conn = sqlite3.connect(
            self._path, check_same_thread=False, isolation_level=None, timeout=5.0
        )
        try:
            db = Database(conn, execute_plugins=False)
            version = int(conn.execute("PRAGMA user_version").fetchone()[0])
            is_known = version in (0, schema.VERSION, *schema.UPGRADES)
            for pragma in _PRAGMAS if is_known else ():
                conn.execute(f"PRAGMA {pragma}").fetchall()
            if version == 0:
                schema.create(db)
            elif version in schema.UPGRADES:
                schema.upgrade(db, version)
            schema.check(db)
            self._inode = self._path.stat().st_ino
        except BaseException:
            conn.close()
            raise
        return db

    def _move_aside(self) -> Path:
        names = (f"{self._path.name}.damaged-{number}" for number in count(1))
        target = next(t for name in names if not (t := self._path.with_name(name)).exists())
        for suffix in ("", "-wal", "-shm"):
            source = self._path.with_name(self._path.name + suffix)
            if source.exists():
                source.replace(target.with_name(target.name + suffix))
        return target

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    def take_back(self) -> bool:
        """Puts the index back in its place if somebody deleted or replaced the file.

        What only the index knows (leases, jobs, the health of sources) is carried over from the
        file that is still open; the rest is for a rebuild. Tells whether there was a need.

        Raises:
            NoSpace: No room.
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        with self._lock, _sqlite_errors(self._path):
            if self._path.exists() and self._path.stat().st_ino == self._inode:
                return False
            kept = {
                name: self._db.conn.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608
                for name in schema.OWN
            }
            self._db.close()
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._db = self._open()
        with self.write() as db:
            for name, rows in kept.items():
                for row in rows:
                    marks = ",".join("?" * len(row))
                    db.conn.execute(f"INSERT OR REPLACE INTO {name} VALUES ({marks})", row)  # noqa: S608
        return True

    def start_over(self) -> None:
        """Sets a damaged file aside and begins an empty index.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        with self._lock, _sqlite_errors(self._path):
            self._db.close()
            self.set_aside = self._move_aside()
            self._db = self._open()

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Generator[Database]:
        """One IMMEDIATE transaction; what is read inside still holds at its end.

        Args:
            durable: Survives a power cut once this ends. If not, it does once a later one does:
                the log is synced from its beginning, and everybody waits while it is.

        Raises:
            NoSpace: No room.
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        with self._lock, _sqlite_errors(self._path):
            if self._db.conn.in_transaction:  # inside another write() of this thread
                yield self._db
                return
            try:
                if not durable:
                    self._db.conn.execute("PRAGMA synchronous=NORMAL")
                self._db.conn.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.conn.execute("COMMIT")
            except BaseException:
                if self._db.conn.in_transaction:
                    self._db.conn.execute("ROLLBACK")
                raise
            finally:
                if not durable:
                    self._db.conn.execute("PRAGMA synchronous=FULL")

    @contextlib.contextmanager
    def read(self) -> Generator[sqlite3.Connection]:
        """The connection, for statements that only read.

        Raises:
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        with self._lock, _sqlite_errors(self._path):
            yield self._db.conn

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Returns all rows of a statement that only reads.

        Raises:
            StoreDamaged: The index is damaged.
        """
        with self.read() as conn:
            return conn.execute(sql, params).fetchall()

    def clear(self, tables: Iterable[str]) -> None:
        """Empties tables, in one transaction.

        Raises:
            NoSpace: No room.
            StoreDamaged: The index is damaged.
        """
        with self.write() as db:
            for table in tables:
                db.conn.execute(f"DELETE FROM {table}")  # noqa: S608


def _is_damage(error: sqlite3.Error) -> bool:
    text = str(error)
    return any(sign in text for sign in ("malformed", "not a database", "no such", "corrupt"))


@contextlib.contextmanager
def _sqlite_errors(path: Path) -> Generator[None]:
    try:
        with disk_errors(path):
            yield
    except sqlite3.Error as error:
        text = str(error)
        if "full" in text:
            raise NoSpace(
                "no room left on the disk for the index {path}",
                hint="free some outside of the store, then `zhcache gc`",
                path=path,
            ) from error
        if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
            raise ZhcacheError(
                "the index {path} cannot be used: {reason}",
                hint="look at the disk with `zhcache doctor`",
                path=path,
                reason=text,
            ) from error
        raise StoreDamaged(reason=f"the index {path}: {text}") from error
