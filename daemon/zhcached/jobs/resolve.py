"""Asking every source what a revision holds, at once, and waiting for no dead one.

A lab's usual case is three sources of which one cannot be reached at all: as soon as one has
answered, the others have a short grace and are then left behind.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from zhcache.errors import (
    Gated,
    IntegrityError,
    NotFound,
    NotPermitted,
    SourcesFailed,
    ZhcacheError,
)
from zhcache.protocol.names import RepoId, Revision, parse_repo
from zhcached.errors import RemoteError, RepoUnavailable
from zhcached.sources.alias import HubNames
from zhcached.sources.base import Resolution, Source
from zhcached.sources.registry import resolve_by_any_name

GRACE_S = 3.0
DEADLINE_S = 30.0


@dataclass(slots=True)
class Answers:
    """Who knows the revision, in the order asked, and why the others do not."""

    found: list[Resolution] = field(default_factory=list)
    failures: dict[str, Exception] = field(default_factory=dict)


def ask(
    sources: Sequence[Source],
    repo: RepoId,
    revision_at: Callable[[Source], Revision | None],
    aliases: Mapping[str, HubNames],
    check: Callable[[], None] = lambda: None,
) -> Answers:
    """Resolves ``repo`` at every source at once.

    Args:
        sources: In order of preference; ``Answers.found`` keeps it.
        repo: As the user named it.
        revision_at: What to ask a source for; None is its default branch.
        aliases: The user's own names for repositories at each kind of hub.
        check: Raises when the job is to end.
    """
    arrived: queue.Queue[tuple[int, Resolution | Exception]] = queue.Queue()

    def work(place: int, source: Source) -> None:
        try:
            wanted = revision_at(source)
            arrived.put((place, resolve_by_any_name(source, repo, wanted, DEADLINE_S, aliases)))
        except Exception as error:  # noqa: BLE001 - handed to the waiting thread
            arrived.put((place, error))

    for place, source in enumerate(sources):
        # Daemon threads: one that hangs in a resolver must not keep the process from ending.
        threading.Thread(target=work, args=(place, source), daemon=True).start()

    outcome = _gather(arrived, len(sources), check)
    answers = Answers()
    for place, source in enumerate(sources):
        match outcome.get(place):
            case None:
                answers.failures[source.name] = RemoteError("no answer in time", source=source.name)
            case Exception() as error:
                answers.failures[source.name] = error
            case found:
                answers.found.append(found)
    _agree_on_commit(answers, {source.name: source for source in sources})
    return answers


def _gather(
    arrived: queue.Queue[tuple[int, Resolution | Exception]],
    expected: int,
    check: Callable[[], None],
) -> dict[int, Resolution | Exception]:
    outcome: dict[int, Resolution | Exception] = {}
    waits_left = int(DEADLINE_S / 0.1) + 10
    grace_left: int | None = None
    while len(outcome) < expected and waits_left > 0 and grace_left != 0:
        check()
        try:
            place, answer = arrived.get(timeout=0.1)
        except queue.Empty:
            waits_left -= 1
            grace_left = None if grace_left is None else grace_left - 1
            continue
        outcome[place] = answer
        if not isinstance(answer, Exception) and grace_left is None:
            grace_left = int(GRACE_S / 0.1)
    return outcome


def _agree_on_commit(answers: Answers, sources: Mapping[str, Source]) -> None:
    """Asks mirrors that lag behind the first source for its very commit.

    A mirror's ``main`` may be hours old while it can serve the newer commit as well; one that
    does not know the commit keeps its own answer and is compared file by file.
    """
    if not answers.found:
        return
    first = answers.found[0]
    for place, other in enumerate(answers.found[1:], start=1):
        comparable = first.has_git_commit and other.has_git_commit
        if not comparable or other.commit == first.commit:
            continue
        source = sources[other.source]
        try:
            again = source.resolve(parse_repo(other.repo), Revision(first.commit), GRACE_S)
        except (RemoteError, ZhcacheError):
            continue
        answers.found[place] = again


def hostile(error: Exception) -> IntegrityError | None:
    """Returns what is wrong with a listing that no honest hub sends, or None. Pure."""
    return error.__cause__ if isinstance(error.__cause__, IntegrityError) else None


def explain(repo: RepoId, failures: Mapping[str, Exception]) -> ZhcacheError:
    """Returns the one error a user is to read when no source could resolve ``repo``. Pure.

    A definite no outranks silence, since waiting will not change it; and of the definite ones
    the one the user can act on comes first.
    """
    said_no = [e.error for e in failures.values() if isinstance(e, RepoUnavailable)]
    said_no += [lie for e in failures.values() if (lie := hostile(e)) is not None]
    for kind in (Gated, NotPermitted, IntegrityError, NotFound):
        for error in said_no:
            if isinstance(error, kind):
                return error
    if said_no:
        return said_no[0]
    reasons = "; ".join(f"{name}: {error}" for name, error in failures.items())
    return SourcesFailed(
        "no source could be asked about {repo}: {reasons}",
        hint="zhcache sources shows their state; zhcache doctor checks the line",
        repo=repo,
        reasons=reasons or "none is configured",
    )
