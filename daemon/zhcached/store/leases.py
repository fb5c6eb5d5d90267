"""Leases: who uses which snapshot. Holds: which blobs a running job still needs.

A lease keeps a snapshot from ``rm`` and its blobs from ``gc``; it is in the index and survives a
restart of the daemon. While this daemon runs, the connection that asked for it says how long it
lasts. One from before a restart lasts as long as its process, named by pid and start time, since
pids come back. A hold is in memory: after a crash of the daemon the grace time of the collection
stands in for it.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zhcache.errors import Busy, NotFound
from zhcache.protocol.names import RepoId
from zhcached.clock import Clock
from zhcached.store.catalog import Catalog


def process_start(pid: int) -> int | None:
    """Returns the start time of a process in clock ticks since boot, or None if there is none.

    Raises:
        PermissionError: Not to be told, as under ``hidepid=1``.

    Source: proc_pid_stat(5), field 22. The name in field 2 may hold spaces and brackets.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True, slots=True)
class Leased:
    """What a lease is of, and whose it is."""

    repo: str
    commit: str
    uid: int


class Leases:
    """The leases and holds of one store. Thread-safe.

    Args:
        catalog: Where leases are kept.
        clock: For the time of granting.
        start_of: Tells a process's start time; for tests.
    """

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        start_of: Callable[[int], int | None] = process_start,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._start_of = start_of
        self._lock = threading.Lock()
        self._connected: set[str] = set()
        self._holds: dict[str, set[str]] = {}

    def grant(
        self, repo: RepoId, commit: str, *, uid: int, pid: int, pid_start: int | None = None
    ) -> str:
        """Leases a snapshot to a process and returns the lease's id.

        It lasts until ``end``, whether the process can be seen from here or not: in a container
        its pid may be 0. Only after a restart of the daemon does the process's life count.

        Raises:
            NotFound: No such snapshot.
            Busy: It is being removed.
            NoSpace: No room in the index.
        """
        start = self._start(pid) if pid_start is None else pid_start
        lease = secrets.token_hex(12)
        with self._catalog.write() as db:
            row = db.conn.execute(
                "SELECT removing FROM snapshots WHERE repo=? AND commit_hash=?", (str(repo), commit)
            ).fetchone()
            if row is None:
                raise NotFound("{repo} at {commit} is not in the store", repo=repo, commit=commit)
            if row[0]:
                raise Busy("{repo} at {commit} is being removed", repo=repo, commit=commit)
            db.conn.execute(
                "INSERT INTO leases VALUES (?,?,?,?,?,?,?)",
                (lease, str(repo), commit, uid, pid, start, self._clock.wall()),
            )
            with self._lock:
                self._connected.add(lease)
        return lease

    def _start(self, pid: int) -> int:
        try:
            return self._start_of(pid) or 0
        except PermissionError:
            return 0

    def end(self, lease: str) -> bool:
        """Ends a lease; tells whether there was one."""
        with self._lock:
            self._connected.discard(lease)
        with self._catalog.write() as db:
            return db.conn.execute("DELETE FROM leases WHERE id=?", (lease,)).rowcount > 0

    def owner(self, lease: str) -> int | None:
        """Returns the uid a lease was granted to, or None if there is no such lease."""
        rows = self._catalog.rows("SELECT uid FROM leases WHERE id=?", (lease,))
        return int(rows[0][0]) if rows else None

    def find(self, lease: str) -> Leased | None:
        """Returns what a lease is of, or None if there is no such lease."""
        rows = self._catalog.rows("SELECT repo, commit_hash, uid FROM leases WHERE id=?", (lease,))
        return Leased(str(rows[0][0]), str(rows[0][1]), int(rows[0][2])) if rows else None

    def holder(self, lease: str) -> str | None:
        """Returns who has a lease, as text, or None if there is no such lease."""
        rows = self._catalog.rows("SELECT uid, pid FROM leases WHERE id=?", (lease,))
        return f"process {rows[0][1]} of uid {rows[0][0]}" if rows else None

    def holders(self, repo: RepoId, commit: str | None = None) -> list[str]:
        """Returns who leases the snapshot, or any of the repository, as texts."""
        rows = self._catalog.rows(
            "SELECT uid, pid FROM leases WHERE repo=? AND (? IS NULL OR commit_hash=?)"
            " ORDER BY granted",
            (str(repo), commit, commit),
        )
        return [f"process {pid} of uid {uid}" for uid, pid in rows]

    def counts(self) -> dict[tuple[str, str, int], int]:
        """Returns how many leases each (repository, commit, uid) has."""
        rows = self._catalog.rows(
            "SELECT repo, commit_hash, uid, COUNT(*) FROM leases GROUP BY 1, 2, 3"
        )
        return {(str(repo), str(commit), int(uid)): int(n) for repo, commit, uid, n in rows}

    def prune_dead(self) -> int:
        """Ends the leases without a connection whose processes are gone; says how many."""
        rows = self._catalog.rows("SELECT id, pid, pid_start FROM leases")
        with self._lock:  # after the rows: what was granted since then is not among them
            alone = [row for row in rows if row[0] not in self._connected]
        dead = [(lease,) for lease, pid, start in alone if not self._lives(int(pid), int(start))]
        if dead:
            with self._catalog.write() as db:
                db.conn.executemany("DELETE FROM leases WHERE id=?", dead)
        return len(dead)

    def _lives(self, pid: int, start: int) -> bool:
        try:
            found = self._start_of(pid) if pid > 0 else None
        except PermissionError:
            return True
        return found is not None and start in (0, found)

    def hold(self, job_id: str, sha256: str) -> None:
        """Keeps a blob from collection while a job runs."""
        with self._lock:
            self._holds.setdefault(job_id, set()).add(sha256)

    def release_holds(self, job_id: str) -> None:
        """Ends all holds of a job."""
        with self._lock:
            self._holds.pop(job_id, None)

    def held_by(self, job_id: str) -> set[str]:
        """Returns the blobs that a job holds."""
        with self._lock:
            return set(self._holds.get(job_id, ()))

    def held(self) -> dict[str, str]:
        """Returns the held blobs and one job that holds each."""
        with self._lock:
            return {sha256: job for job, blobs in self._holds.items() for sha256 in blobs}


def boot_id() -> str:
    """Returns the kernel's name for this boot, within which its monotonic clock compares.

    Source: random(4), /proc/sys/kernel/random/boot_id.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return f"unknown-{os.getpid()}"
