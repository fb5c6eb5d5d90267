"""A lease on a model that is wholly here; fetched first if it is not."""

from __future__ import annotations

import sys
import time
from typing import Any

from zhcache.client import Client
from zhcache.errors import NotFound
from zhcache.lease import Lease
from zhcache.pipeline.closed import Readable


def lease(
    client: Client, repo: str, variant: str | None, revision: str | None, until: float | None
) -> tuple[Lease, Readable]:
    """Returns a lease of a whole snapshot, and its files; what is missing is fetched first.

    Args:
        client: Of the daemon.
        repo: ``OWNER/NAME``.
        variant: Which variant; None as published.
        revision: Branch, tag or commit; None is the default branch.
        until: When waiting for the download ends, by ``time.monotonic``; None waits.

    Raises:
        NotFound: No such repository or revision.
        Busy: The time is over; the download goes on.
        ZhcacheError: What else the daemon reported.
    """
    try:
        held = client.lease(repo, variant=variant, revision=revision)
    except NotFound:
        pass
    else:
        there = Readable(client.socket, held)
        if not there.gaps():
            return held, there
        there.close()
        held.end()
    left = None if until is None else max(until - time.monotonic(), 0.0)
    result = _fetch(client, repo, variant, revision, left)
    # By commit: the branch may have moved on since, and what was fetched is what is read.
    held = client.lease(result.repo, variant=variant, revision=result.commit)
    return held, Readable(client.socket, held)


def _fetch(
    client: Client,
    repo: str,
    variant: str | None,
    revision: str | None,
    timeout_s: float | None,
) -> Any:
    from zhcache.progress import display

    with display(is_quiet=not sys.stderr.isatty()) as shown:
        return client.prefetch(
            repo,
            revision=client.settled(repo, revision) if variant else revision,
            variants=[variant] if variant else (),
            only_pipeline=True,
            on_progress=shown.update,
            timeout_s=timeout_s,
        )
