"""Questions to the index, one statement each where it can be: 100,000 files stay fast."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from zhcache.protocol import messages
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.config import StoreConfig
from zhcached.store import variants
from zhcached.store.blobs import Blobs, Identity
from zhcached.store.catalog import Catalog
from zhcached.store.digest import Promise
from zhcached.store.space import Space
from zhcached.store.view import HubView

_SNAPSHOTS = (
    "SELECT s.repo, s.commit_hash, s.created, s.source, s.trust, s.complete,"
    " COALESCE(SUM(f.size), 0), COUNT(f.path),"
    " SUM(f.sha256 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.sha256=f.sha256)),"
    " EXISTS (SELECT 1 FROM pins p WHERE p.repo=s.repo)"
    " FROM snapshots s LEFT JOIN files f ON f.snapshot=s.id WHERE NOT s.removing"
)


def candidates(catalog: Catalog, promise: Promise) -> list[str]:
    """Returns the blobs that may hold the promised bytes."""
    if promise.sha256 is not None:
        return [promise.sha256]
    rows = catalog.rows(
        "SELECT DISTINCT sha256 FROM files WHERE git_sha1=? AND size=?",
        (promise.git_sha1, promise.size),
    )
    return [str(row[0]) for row in rows]


def newest_from(catalog: Catalog, source: str) -> str | None:
    """Returns the repository that came last from a source of that name."""
    sql = "SELECT repo FROM snapshots WHERE source=? AND NOT removing ORDER BY created DESC LIMIT 1"
    rows = catalog.rows(sql, (source,))
    return str(rows[0][0]) if rows else None


def fetched(catalog: Catalog) -> list[tuple[str, str, int]]:
    """Returns (repository, commit, when its manifest was written) of what was not made here."""
    sql = (
        "SELECT repo, commit_hash, mtime_ns FROM snapshots"
        " WHERE derived_of IS NULL AND NOT removing ORDER BY id"
    )
    return [(str(repo), str(commit), int(at or 0)) for repo, commit, at in catalog.rows(sql)]


def holding(catalog: Catalog, path: str) -> list[str]:
    """Returns the repositories of which a snapshot has a file at ``path``; variants are none."""
    sql = (
        "SELECT DISTINCT s.repo FROM files f JOIN snapshots s ON f.snapshot=s.id"
        " WHERE f.path=? AND f.sha256 IS NOT NULL AND s.derived_of IS NULL AND NOT s.removing"
    )
    return [str(row[0]) for row in catalog.rows(sql, (path,))]


def is_known_as(catalog: Catalog, sha256: str, git_sha1: str) -> bool:
    """Tells whether a manifest says that the blob has this git sha1."""
    sql = "SELECT 1 FROM files WHERE sha256=? AND git_sha1=? LIMIT 1"
    return bool(catalog.rows(sql, (sha256, git_sha1)))


def recorded(catalog: Catalog, sha256: str) -> tuple[Identity, bool] | None:
    """Returns the recorded identity of a blob and whether it is suspect."""
    rows = catalog.rows(
        "SELECT size, inode, mtime_ns, ctime_ns, suspect FROM blobs WHERE sha256=?", (sha256,)
    )
    if not rows:
        return None
    size, inode, mtime_ns, ctime_ns, suspect = rows[0]
    return Identity(int(size), int(inode), int(mtime_ns), int(ctime_ns)), bool(suspect)


def users(catalog: Catalog, sha256: str) -> list[tuple[str, str, int]]:
    """Returns (repository, commit, size) of each snapshot that has a blob here."""
    rows = catalog.rows(
        "SELECT DISTINCT s.repo, s.commit_hash, f.size FROM files f"
        " JOIN snapshots s ON s.id=f.snapshot WHERE f.sha256=? AND NOT s.removing",
        (sha256,),
    )
    return [(str(repo), str(commit), int(size)) for repo, commit, size in rows]


def suspects(catalog: Catalog, repo: RepoId, commit: str) -> list[tuple[str, int]]:
    """Returns the blobs of a snapshot that must be read before they are trusted again."""
    rows = catalog.rows(
        "SELECT DISTINCT b.sha256, f.size FROM blobs b JOIN files f ON f.sha256=b.sha256"
        " JOIN snapshots s ON s.id=f.snapshot WHERE b.suspect AND s.repo=? AND s.commit_hash=?",
        (str(repo), commit),
    )
    return [(str(sha256), int(size)) for sha256, size in rows]


def holes_of(catalog: Catalog, repo: RepoId, commit: str) -> list[str]:
    """Returns the paths of the snapshot whose blobs are not here."""
    rows = catalog.rows(
        "SELECT f.path FROM files f JOIN snapshots s ON s.id=f.snapshot WHERE s.repo=?"
        " AND s.commit_hash=? AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.sha256=f.sha256)"
        " ORDER BY 1",
        (str(repo), commit),
    )
    return [str(row[0]) for row in rows]


def commits(catalog: Catalog, repo: RepoId) -> list[str]:
    """Returns the repository's snapshots, newest first, without what was made of them."""
    rows = catalog.rows(
        "SELECT commit_hash FROM snapshots WHERE repo=? AND NOT removing AND derived_of IS NULL"
        " ORDER BY created DESC, id DESC",
        (str(repo),),
    )
    return [str(row[0]) for row in rows]


def sizes(catalog: Catalog) -> dict[tuple[str, str], int]:
    """Returns the bytes of each (repository, commit), variants by their own commits."""
    rows = catalog.rows(
        "SELECT s.repo, s.commit_hash, COALESCE(SUM(f.size), 0) FROM snapshots s"
        " LEFT JOIN files f ON f.snapshot=s.id GROUP BY s.id"
    )
    return {(str(repo), str(commit)): int(size) for repo, commit, size in rows}


def refs(catalog: Catalog, repo: RepoId) -> dict[str, str]:
    """Returns the commit of each branch and tag."""
    rows = catalog.rows("SELECT ref, commit_hash FROM refs WHERE repo=?", (str(repo),))
    return {str(ref): str(commit) for ref, commit in rows}


def snapshots(catalog: Catalog, view: HubView) -> list[messages.Snapshot]:
    """Returns every snapshot, without its files."""
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for repo, commit, ref in catalog.rows("SELECT repo, commit_hash, ref FROM refs ORDER BY ref"):
        names[repo, commit].append(str(ref))
    rows = catalog.rows(
        f"{_SNAPSHOTS} AND s.derived_of IS NULL GROUP BY s.id ORDER BY s.repo, s.created"
    )
    made = variants.listed(catalog, view)
    here = [
        messages.Snapshot(
            **_fields(row, view, names[row[0], row[1]]), variants=made.pop((row[0], row[1]), {})
        )
        for row in rows
    ]
    return here + [_unfounded(view, *key, of) for key, of in made.items()]


def _unfounded(
    view: HubView, repo: str, commit: str, made: dict[str, messages.VariantResult]
) -> messages.Snapshot:
    """Returns what is left of a snapshot whose own record was lost: variants, and no file."""
    return messages.Snapshot(
        repo=repo,
        commit=commit,
        path=str(view.snapshot_dir(parse_repo(repo), commit)),
        revisions=[],
        bytes=0,
        files_count=0,
        trust="first-use",
        complete=False,
        variants=made,
    )


def detail(
    catalog: Catalog, view: HubView, blobs: Blobs, repo: RepoId, commit: str
) -> messages.SnapshotDetail:
    """Returns one snapshot, or one variant, with its files; it must be there."""
    where = "AND s.repo=? AND s.commit_hash=? GROUP BY s.id"
    row = catalog.rows(f"{_SNAPSHOTS} {where}", (str(repo), commit))[0]
    files = catalog.rows(
        "SELECT f.path, f.size, f.sha256, f.trust FROM files f JOIN snapshots s ON s.id=f.snapshot"
        " WHERE s.repo=? AND s.commit_hash=? ORDER BY f.path",
        (str(repo), commit),
    )
    here = sorted(ref for ref, target in refs(catalog, repo).items() if target == commit)
    fields = _fields(row, view, here)
    fields["commit"], variant = variants.origin(catalog, repo, commit)
    return messages.SnapshotDetail(
        **fields,
        variant=variant,
        variants={} if variant else variants.listed(catalog, view).get((str(repo), commit), {}),
        files=[
            messages.SnapshotFile(
                path=path, size=size, sha256=sha256, blob=str(blobs.path(sha256)), trust=trust
            )
            for path, size, sha256, trust in files
        ],
    )


def _fields(row: tuple[Any, ...], view: HubView, names: list[str]) -> dict[str, Any]:
    repo, commit, created, source, trust, complete, size, number, missing, pinned = row
    return {
        "repo": repo,
        "commit": commit,
        "path": str(view.snapshot_dir(parse_repo(repo), commit)),
        "revisions": names,
        "bytes": size,
        "files_count": number,
        "trust": trust,
        "source": source,
        "created": created,
        "pinned": bool(pinned),
        "complete": bool(complete) and not missing,
    }


def space(catalog: Catalog, ledger: Space, config: StoreConfig) -> messages.Space:
    """Returns what takes how much room."""
    rows = catalog.rows(
        "WITH used AS (SELECT DISTINCT s.repo, f.sha256, f.size FROM files f"
        " JOIN snapshots s ON s.id=f.snapshot),"
        " shared AS (SELECT sha256, COUNT(*) AS users FROM used GROUP BY sha256)"
        " SELECT used.repo, SUM(used.size), SUM((shared.users=1)*used.size),"
        " (SELECT COUNT(*) FROM snapshots s WHERE s.repo=used.repo AND s.derived_of IS NULL)"
        " FROM used JOIN shared ON shared.sha256=used.sha256 GROUP BY used.repo ORDER BY 1"
    )
    made = variants.uses(catalog)
    totals = catalog.rows(
        "SELECT COALESCE(SUM(size), 0), COALESCE(SUM(released*size), 0) FROM blobs"
    )[0]
    return messages.Space(
        repos=[
            messages.RepoUse(
                repo=repo,
                bytes=size,
                bytes_own=own,
                snapshots=number,
                variants=made.get(repo, []),
            )
            for repo, size, own, number in rows
        ],
        bytes_blobs=int(totals[0]),
        bytes_partial=ledger.partial(),
        bytes_released=int(totals[1]),
        bytes_reserved=ledger.reserved,
        bytes_free=ledger.free(),
        quota=config.quota,
        min_free=config.min_free,
    )
