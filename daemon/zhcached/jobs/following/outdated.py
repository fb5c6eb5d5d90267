"""Which revisions of a followed model go once a newer one is here. When in doubt, they stay."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from zhcache.errors import NotFound, ZhcacheError
from zhcached.jobs.following.followed import Entry
from zhcached.store.store import Store

log = structlog.get_logger()


def outdated(brought: Sequence[str], past: Sequence[str], current: str, keep: int) -> list[str]:
    """Returns the revisions that go. Pure.

    Args:
        brought: What following brought and nobody else asked for, oldest first.
        past: What the ref meant before, oldest first. What it never meant was never whole, and is
            kept by nothing.
        current: What it means now.
        keep: How many of ``past`` stay.
    """
    before = [commit for commit in past if commit in brought and commit != current]
    unfinished = [commit for commit in brought if commit not in past and commit != current]
    return unfinished + before[: max(0, len(before) - keep)]


def prune(store: Store, entry: Entry, keep: int) -> list[str]:
    """Removes what is outdated of a model, as its follower; ``gc`` frees the bytes.

    What is pinned, leased, named by another ref or brought by another user stays, and is tried
    again another time.

    Returns:
        The revisions that are not here any more.
    """
    gone: list[str] = []
    for commit in outdated(entry.brought, entry.past, entry.commit, keep):
        try:
            store.remove(entry.repo_id, commit, entry.uid, may_all=False, even_named=False)
        except NotFound:
            gone.append(commit)
        except ZhcacheError as error:
            log.info("follow.kept", repo=entry.repo, commit=commit, reason=str(error))
        else:
            log.info("follow.pruned", repo=entry.repo, commit=commit)
            gone.append(commit)
    return gone
