"""Asking every source what a revision holds, at once, and waiting for no dead one.

A lab's usual case is three sources of which one cannot be reached at all: as soon as one has
answered, the others have a short grace and are then left behind.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
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
from zhcached.errors import RemoteError, RepoUnavailable, TransportError
from zhcached.sources.alias import HubNames
from zhcached.sources.base import Resolution, Source
from zhcached.sources.registry import resolve_by_any_name

GRACE_S = 3.0
REFUSED_GRACE_S = 8.0
DOUBTFUL_GRACE_S = 0.3
DEADLINE_S = 30.0


@dataclass(slots=True)
class Answers:
    """Who knows the revision, in the order asked, and why the others do not.

    ``heads`` is the commit that each source named of itself, before it was asked for another's;
    ``seconds`` is how long it took.
    """

    found: list[Resolution] = field(default_factory=list)
    failures: dict[str, Exception] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def ask(
    sources: Sequence[Source],
    repo: RepoId,
    revision_at: Callable[[Source], Revision | None],
    aliases: Mapping[str, HubNames],
    check: Callable[[], None] = lambda: None,
    doubtful: Collection[str] = (),
) -> Answers:
    """Resolves ``repo`` at every source at once.

    Args:
        sources: In order of preference; ``Answers.found`` keeps it, hubs before all others.
        repo: As the user named it.
        revision_at: What to ask a source for; None is its default branch.
        aliases: The user's own names for repositories at each kind of hub.
        check: Raises when the job is to end.
        doubtful: Sources that were silent lately; nobody waits for them once others answered.
    """
    arrived: queue.Queue[tuple[int, Resolution | Exception]] = queue.Queue()

    took: dict[str, float] = {}

    def work(place: int, source: Source) -> None:
        try:
            wanted = revision_at(source)
            began = time.monotonic()
            found = resolve_by_any_name(source, repo, wanted, DEADLINE_S, aliases)
            took[source.name] = time.monotonic() - began
            arrived.put((place, found))
        except Exception as error:  # noqa: BLE001 - handed to the waiting thread
            arrived.put((place, error))

    for place, source in enumerate(sources):
        # Daemon threads: one that hangs in a resolver must not keep the process from ending.
        threading.Thread(target=work, args=(place, source), daemon=True).start()

    places = {source.name: place for place, source in enumerate(sources)}
    late = {places[name] for name in doubtful if name in places}
    outcome = _gather(arrived, places.values(), late, check)
    answers = Answers(seconds=took)
    for place, source in enumerate(sources):
        match outcome.get(place):
            case None:
                silence = TransportError("no answer in time", source=source.name)
                answers.failures[source.name] = silence
            case Exception() as error:
                answers.failures[source.name] = error
            case found:
                answers.found.append(found)
                answers.heads[source.name] = found.commit
    # What a peer or a folder has may be old: it defines a repository only where no hub answers.
    answers.found.sort(key=lambda one: not one.is_hub)
    _agree_on_commit(answers, {source.name: source for source in sources})
    return answers


def _gather(
    arrived: queue.Queue[tuple[int, Resolution | Exception]],
    expected: Collection[int],
    doubtful: Collection[int],
    check: Callable[[], None],
) -> dict[int, Resolution | Exception]:
    outcome: dict[int, Resolution | Exception] = {}
    until = time.monotonic() + DEADLINE_S
    while len(outcome) < len(expected) and time.monotonic() < until:
        check()
        try:
            place, answer = arrived.get(timeout=0.1)
        except queue.Empty:
            continue
        outcome[place] = answer
        pending = [other for other in expected if other not in outcome]
        until = min(until, time.monotonic() + _patience(outcome, pending, doubtful))
    return outcome


def _patience(
    outcome: Mapping[int, Resolution | Exception],
    pending: Collection[int],
    doubtful: Collection[int],
) -> float:
    """Returns how many seconds the sources that have not answered are worth. Pure."""
    if all(place in doubtful for place in pending):
        return DOUBTFUL_GRACE_S if outcome else DEADLINE_S
    if any(not isinstance(answer, Exception) for answer in outcome.values()):
        return GRACE_S
    refused = any(isinstance(answer, RepoUnavailable) for answer in outcome.values())
    return REFUSED_GRACE_S if refused else DEADLINE_S


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
