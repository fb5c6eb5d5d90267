"""Variants in the index: snapshots that were made here of another one, each under a name."""

from __future__ import annotations

from collections import defaultdict

from zhcache.errors import NotFound
from zhcache.protocol import messages
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.store.catalog import Catalog
from zhcached.store.view import HubView


def named(catalog: Catalog, repo: RepoId, base: str | None) -> dict[str, list[str]]:
    """Returns the variants of a snapshot, or of all: name -> commits, newest first.

    One name has several where its recipe was changed, or the tools were.
    """
    rows = catalog.rows(
        "SELECT variant, commit_hash FROM snapshots WHERE repo=? AND derived_of IS NOT NULL"
        " AND (? IS NULL OR derived_of=?) AND NOT removing"
        " ORDER BY variant, created DESC, id DESC",
        (str(repo), base, base),
    )
    found: dict[str, list[str]] = defaultdict(list)
    for name, commit in rows:
        found[str(name)].append(str(commit))
    return dict(found)


def commit_of(catalog: Catalog, repo: RepoId, base: str, name: str) -> str:
    """Returns the newest commit of a variant.

    Raises:
        NotFound: There is none; the message names the variants that are here.
    """
    return commits_of(catalog, repo, base, name)[0]


def commits_of(catalog: Catalog, repo: RepoId, base: str | None, name: str) -> list[str]:
    """Returns the commits of a variant of a snapshot, or of all, newest first.

    Raises:
        NotFound: There is none; the message names the variants that are here.
    """
    found = named(catalog, repo, base)
    if name in found:
        return found[name]
    if found:
        raise NotFound(
            "{repo} has no variant {variant} here; it has {here}",
            hint="make it with `zhcache prefetch {repo} --variant {variant}`",
            repo=repo,
            variant=name,
            here=", ".join(found),
        )
    raise NotFound(
        "{repo} has no variant {variant} here",
        hint="make it with `zhcache prefetch {repo} --variant {variant}`",
        repo=repo,
        variant=name,
    )


def made_of(catalog: Catalog, repo: RepoId, base: str | None) -> dict[str, str]:
    """Returns all variants of a snapshot, or of all the repository's: own commit -> name."""
    rows = catalog.rows(
        "SELECT commit_hash, variant FROM snapshots WHERE repo=? AND derived_of IS NOT NULL"
        " AND (? IS NULL OR derived_of=?) AND NOT removing ORDER BY id",
        (str(repo), base, base),
    )
    return {str(commit): str(name) for commit, name in rows}


def listed(
    catalog: Catalog, view: HubView
) -> dict[tuple[str, str], dict[str, messages.VariantResult]]:
    """Returns the variants of each (repository, commit made of), by name."""
    rows = catalog.rows(
        "SELECT s.repo, s.derived_of, s.variant, s.commit_hash, COALESCE(SUM(f.size), 0),"
        " SUM(f.sha256 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.sha256=f.sha256))"
        " FROM snapshots s LEFT JOIN files f ON f.snapshot=s.id"
        " WHERE s.derived_of IS NOT NULL AND NOT s.removing"
        " GROUP BY s.id ORDER BY s.repo, s.variant, s.created DESC, s.id DESC"
    )
    found: dict[tuple[str, str], dict[str, messages.VariantResult]] = defaultdict(dict)
    for repo, of, name, commit, size, missing in rows:
        path = str(view.snapshot_dir(parse_repo(repo), commit))
        state = "damaged" if missing else "ready"
        result = messages.VariantResult(path=path, bytes=size, state=state)
        found[repo, of].setdefault(name, result)
    return found


def uses(catalog: Catalog) -> dict[str, list[messages.VariantUse]]:
    """Returns what the variants of each repository take; bytes of one that no other snapshot has
    are its own.
    """
    rows = catalog.rows(
        "WITH used AS (SELECT DISTINCT snapshot, sha256, size FROM files),"
        " shared AS (SELECT sha256, COUNT(*) AS users FROM used GROUP BY sha256)"
        " SELECT s.repo, s.derived_of, s.variant, SUM(used.size),"
        " SUM((shared.users=1)*used.size) FROM snapshots s JOIN used ON used.snapshot=s.id"
        " JOIN shared ON shared.sha256=used.sha256 WHERE s.derived_of IS NOT NULL"
        " GROUP BY s.id ORDER BY s.repo, s.derived_of, s.variant, s.id"
    )
    found: dict[str, list[messages.VariantUse]] = defaultdict(list)
    for repo, of, name, size, own in rows:
        use = messages.VariantUse(commit=of, variant=name, bytes=size, bytes_own=own)
        found[repo].append(use)
    return found


def label(repo: str, base: str, name: str) -> str:
    """Returns how a variant is named in texts."""
    return f"{repo}@{base[:12]} ({name})"


def origin(catalog: Catalog, repo: RepoId, commit: str) -> tuple[str, str | None]:
    """Returns (commit, None) of a hub's snapshot, (what it was made of, its name) of a variant.

    Raises:
        NotFound: No such snapshot here.
    """
    rows = catalog.rows(
        "SELECT derived_of, variant FROM snapshots WHERE repo=? AND commit_hash=?",
        (str(repo), commit),
    )
    if not rows:
        raise NotFound("{repo} at {commit} is not in the store", repo=repo, commit=commit)
    of, name = rows[0]
    return (commit, None) if of is None else (str(of), str(name))


def broken(catalog: Catalog, repo: RepoId | None = None) -> list[tuple[RepoId, str, str, str]]:
    """Returns (repository, commit made of, name, own commit) of variants that miss bytes."""
    wanted = str(repo) if repo else None
    rows = catalog.rows(
        "SELECT s.repo, s.derived_of, s.variant, s.commit_hash FROM snapshots s"
        " WHERE s.derived_of IS NOT NULL AND NOT s.removing AND (? IS NULL OR s.repo=?)"
        " AND EXISTS (SELECT 1 FROM files f WHERE f.snapshot=s.id AND NOT EXISTS"
        " (SELECT 1 FROM blobs b WHERE b.sha256=f.sha256)) ORDER BY 1, 2, 3, s.id",
        (wanted, wanted),
    )
    return [(parse_repo(held), str(of), str(name), str(own)) for held, of, name, own in rows]


def orphaned(catalog: Catalog, repo: RepoId | None = None) -> list[tuple[str, str, str]]:
    """Returns (repository, commit made of, name) of variants whose source is not here."""
    wanted = str(repo) if repo else None
    rows = catalog.rows(
        "SELECT DISTINCT s.repo, s.derived_of, s.variant FROM snapshots s"
        " WHERE s.derived_of IS NOT NULL AND NOT s.removing AND (? IS NULL OR s.repo=?)"
        " AND NOT EXISTS (SELECT 1 FROM snapshots b WHERE b.repo=s.repo"
        " AND b.commit_hash=s.derived_of) ORDER BY 1, 2, 3",
        (wanted, wanted),
    )
    return [(str(name), str(of), str(variant)) for name, of, variant in rows]
