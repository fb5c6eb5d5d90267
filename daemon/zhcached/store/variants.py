"""Variants in the index: snapshots that were made here of another one, each under a name."""

from __future__ import annotations

from collections import defaultdict

from zhcache.errors import NotFound
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.store.catalog import Catalog


def named(catalog: Catalog, repo: RepoId, base: str) -> dict[str, list[str]]:
    """Returns the variants of a snapshot: name -> commits, newest first.

    One name has several where its recipe was changed, or the tools were.
    """
    rows = catalog.rows(
        "SELECT variant, commit_hash FROM snapshots WHERE repo=? AND derived_of=?"
        " AND NOT removing ORDER BY variant, created DESC, id DESC",
        (str(repo), base),
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


def commits_of(catalog: Catalog, repo: RepoId, base: str, name: str) -> list[str]:
    """Returns the commits of a variant, newest first.

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


def made_of(catalog: Catalog, repo: RepoId, base: str | None) -> list[str]:
    """Returns the commits of all variants of a snapshot, or of any of the repository's."""
    rows = catalog.rows(
        "SELECT commit_hash FROM snapshots WHERE repo=? AND derived_of IS NOT NULL"
        " AND (? IS NULL OR derived_of=?) AND NOT removing ORDER BY id",
        (str(repo), base, base),
    )
    return [str(row[0]) for row in rows]


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


def broken(catalog: Catalog) -> list[tuple[RepoId, str, str, str]]:
    """Returns (repository, commit made of, name, own commit) of variants that miss bytes."""
    rows = catalog.rows(
        "SELECT s.repo, s.derived_of, s.variant, s.commit_hash FROM snapshots s"
        " WHERE s.derived_of IS NOT NULL AND NOT s.removing"
        " AND EXISTS (SELECT 1 FROM files f WHERE f.snapshot=s.id AND NOT EXISTS"
        " (SELECT 1 FROM blobs b WHERE b.sha256=f.sha256)) ORDER BY 1, 2, 3, s.id"
    )
    return [(parse_repo(repo), str(of), str(name), str(own)) for repo, of, name, own in rows]


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
