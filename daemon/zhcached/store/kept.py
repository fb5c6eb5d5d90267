"""What the daemon keeps in the index for itself: the records of jobs, what is known of sources.

The store does not read them. They are in no other file, so that they are synced like leases.
"""

from __future__ import annotations

from collections.abc import Iterable

from zhcached.store.catalog import Catalog


def save_job(
    catalog: Catalog,
    job_id: str,
    key: str,
    kind: str,
    state: str,
    uid: int,
    created: float,
    updated: float,
    record: bytes,
) -> None:
    """Writes or replaces a job's record.

    Raises:
        NoSpace: No room.
        StoreDamaged: The index is damaged.
    """
    row = (job_id, key, kind, state, uid, created, updated, record)
    with catalog.write() as db:
        db.conn.execute("INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?,?,?,?)", row)


def load_jobs(
    catalog: Catalog, states: Iterable[str] | None = None, limit: int = 1000
) -> list[tuple[str, bytes]]:
    """Returns id and record of jobs in these states, or any; newest first.

    Raises:
        StoreDamaged: The index is damaged.
    """
    wanted = None if states is None else tuple(states)
    where = "" if wanted is None else f"WHERE state IN ({','.join('?' * len(wanted))})"
    sql = f"SELECT id, record FROM jobs {where} ORDER BY updated DESC LIMIT ?"  # noqa: S608
    return [(str(a), bytes(b)) for a, b in catalog.rows(sql, (*(wanted or ()), limit))]


def delete_jobs_before(catalog: Catalog, updated: float, states: Iterable[str]) -> int:
    """Forgets jobs in these states that were last touched before ``updated``; says how many.

    Raises:
        NoSpace: No room.
        StoreDamaged: The index is damaged.
    """
    wanted = tuple(states)
    marks = ",".join("?" * len(wanted))
    with catalog.write() as db:
        sql = f"DELETE FROM jobs WHERE updated < ? AND state IN ({marks})"  # noqa: S608
        return db.conn.execute(sql, (updated, *wanted)).rowcount


def save_health(catalog: Catalog, name: str, record: bytes) -> None:
    """Writes or replaces what is known of a source.

    Raises:
        NoSpace: No room.
        StoreDamaged: The index is damaged.
    """
    with catalog.write() as db:
        db.conn.execute("INSERT OR REPLACE INTO source_health VALUES (?,?)", (name, record))


def load_health(catalog: Catalog) -> dict[str, bytes]:
    """Returns what is known of each source.

    Raises:
        StoreDamaged: The index is damaged.
    """
    rows = catalog.rows("SELECT name, record FROM source_health")
    return {str(name): bytes(record) for name, record in rows}
