"""Asking the sources in the light of what is remembered of them, and remembering how it went."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from zhcache.protocol.names import RepoId, Revision
from zhcached.errors import RemoteError, RepoUnavailable, StatusError
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.resolve import Answers, ask, hostile
from zhcached.jobs.asking.spare import first_asked
from zhcached.sources.alias import HubNames
from zhcached.sources.base import Source
from zhcached.sources.health import Answered, Lied

PATIENCE_S = 300.0
"""How long in all a job waits for sources that want no requests, where no other answers."""
MIN_WAIT_S = 1.0
_LOOK_S = 0.1

log = structlog.get_logger()


def consult(
    sources: Sequence[Source],
    repo: RepoId,
    revision_at: Callable[[Source], Revision | None],
    aliases: Mapping[str, HubNames],
    health: Health,
    check: Callable[[], None] = lambda: None,
) -> Answers:
    """Asks as ``resolve.ask`` does; if the only ones that may know are over their limit, waits.

    Where a gateway of this site says what the repository is, no hub is asked.

    Args:
        sources: In order of preference.
        repo: As the user named it.
        revision_at: What to ask a source for.
        aliases: The user's own names for repositories.
        health: Says whom not to wait for, and is told what came.
        check: Raises when the job is to end.
    """
    left_s = PATIENCE_S
    while True:
        doubtful = health.doubtful()
        first = first_asked(sources, health.near, doubtful)
        answers = ask(first, repo, revision_at, aliases, check, doubtful)
        remember(answers, health)
        if len(first) < len(sources) and not any(one.is_hub for one in answers.found):
            answers = ask(sources, repo, revision_at, aliases, check, health.doubtful())
            remember(answers, health)
        wait_s = wait_for(answers, health.closed_s)
        if wait_s is None or wait_s > left_s:
            return answers
        log.info("sources.limited", repo=str(repo), wait_s=round(wait_s, 1))
        left_s -= wait_s
        _rest(wait_s, check)


def remember(answers: Answers, health: Health) -> None:
    """Folds what came of a question into the sources' records."""
    for resolution in answers.found:
        health.observe(resolution.source, Answered(answers.seconds.get(resolution.source)))
    for name, error in answers.failures.items():
        if hostile(error) is not None:
            health.observe(name, Lied(str(error)))
        elif isinstance(error, RemoteError):
            health.failed(name, error)


def wait_for(answers: Answers, closed_s: Callable[[str], float] = lambda _: 0.0) -> float | None:
    """Returns how long to wait before asking again; None where that is of no use. Pure.

    A definite no ends the question: who says it has looked.

    Args:
        answers: What came.
        closed_s: Returns for how long a source will be sent no request.
    """
    if answers.found:
        return None
    waits: list[float] = []
    for name, error in answers.failures.items():
        if isinstance(error, RepoUnavailable):
            return None
        if isinstance(error, StatusError) and error.status == 429:
            waits.append(max(error.retry_after_s or 0.0, closed_s(name), MIN_WAIT_S))
    return min(waits, default=None)


def _rest(seconds: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(left, _LOOK_S))
