"""Which snapshot a name means here."""

from __future__ import annotations

from collections.abc import Collection

from zhcache.errors import Busy, NotFound, UsageError
from zhcache.protocol.names import RepoId, is_commit, parse_revision
from zhcached.store import listing, variants
from zhcached.store.catalog import Catalog


def commit_of(catalog: Catalog, repo: RepoId, revision: str | None) -> str:
    """Returns the commit that ``revision`` means: branch, tag, commit or the beginning of one.

    None is ``main``, else ``master``, else the newest. A variant is meant only by its whole commit.

    Raises:
        NotFound: No such snapshot here.
        UsageError: Malformed, or several commits begin so.
    """
    if (
        revision is not None
        and is_commit(revision)
        and revision in variants.made_of(catalog, repo, None)
    ):
        return revision
    commits = listing.commits(catalog, repo)
    refs = listing.refs(catalog, repo)
    if not commits:
        raise NotFound(
            "{repo} is not in the store",
            hint="fetch it with `zhcache prefetch {repo}`",
            repo=repo,
        )
    if revision is None:
        return refs.get("main") or refs.get("master") or commits[0]
    wanted = refs.get(parse_revision(revision), revision)
    if wanted in commits:
        return wanted
    is_prefix = len(revision) >= 7 and is_commit(revision.ljust(40, "0"))
    found = [commit for commit in commits if is_prefix and commit.startswith(revision)]
    if len(found) > 1:
        raise UsageError("{revision} begins several commits", revision=revision)
    if not found:
        raise NotFound(
            "{repo} has no revision {revision} in the store",
            hint="here are {here}; `zhcache prefetch {repo} --revision {revision}` fetches it",
            repo=repo,
            revision=revision,
            here=", ".join([*sorted(refs), *commits][:8]),
        )
    return found[0]


def to_remove(
    catalog: Catalog, repo: RepoId, revision: str | None
) -> tuple[list[str], dict[str, str]]:
    """Returns the snapshots that a removal means, and the variants (own commit -> name) with them.

    Args:
        catalog: The index.
        repo: The repository.
        revision: As ``commit_of``; None is all.

    Raises:
        NotFound: Nothing such is here.
        UsageError: Malformed, or several commits begin so.
    """
    if revision is None:
        commits, made = listing.commits(catalog, repo), variants.made_of(catalog, repo, None)
        if not commits and not made:
            raise NotFound("{repo} is not in the store", repo=repo)
        return commits, made
    commit = commit_of(catalog, repo, revision)
    _, name = variants.origin(catalog, repo, commit)
    return ([], {commit: name}) if name else ([commit], variants.made_of(catalog, repo, commit))


def check_unnamed(catalog: Catalog, repo: RepoId, commits: Collection[str]) -> None:
    """Checks that no branch or tag means one of ``commits``.

    Raises:
        Busy: One does.
    """
    for ref, commit in listing.refs(catalog, repo).items():
        if commit in commits:
            raise Busy(
                "{ref} of {repo} means {commit}",
                hint="it can be removed once the branch has moved on",
                ref=ref,
                repo=repo,
                commit=commit,
            )


def name_of(catalog: Catalog, repo: RepoId, commit: str) -> str:
    """Returns a ref that points at ``commit``, ``main`` before others, or the commit itself."""
    refs = listing.refs(catalog, repo)
    names = [name for name in ("main", "master", *sorted(refs)) if refs.get(name) == commit]
    return names[0] if names else commit
