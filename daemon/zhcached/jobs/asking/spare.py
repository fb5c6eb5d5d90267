"""Hubs that nobody has to ask, since a gateway of this site answered: asked once it cannot send.

A site's machines would each spend a hub's budget on the same questions, and each take a share of
every file over the same line. So behind a gateway the hubs are spare: for a file that the gateway
fails to send one of them is asked what it has, by the digest that the gateway promised.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from zhcache.errors import NotFound, ZhcacheError
from zhcache.protocol.names import RepoId, Revision
from zhcached.errors import RemoteError, RepoUnavailable, StatusError
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.resolve import DEADLINE_S, Answers
from zhcached.sources.alias import HubNames
from zhcached.sources.base import Resolution, Source
from zhcached.sources.health import Answered
from zhcached.sources.refusals import missing_or_private
from zhcached.sources.registry import resolve_by_any_name
from zhcached.sources.trust import FileTrust
from zhcached.transport.http import Target

HUBS = ("huggingface", "modelscope")


def first_asked(
    sources: Sequence[Source], near: Collection[str], doubtful: Collection[str]
) -> Sequence[Source]:
    """Returns whom to ask before all others: those of this site, if a gateway is among them. Pure.

    Args:
        sources: All there are.
        near: Those of this site.
        doubtful: Those that were silent or lied lately.
    """
    own = [source for source in sources if source.name in near]
    has_gateway = any(one.kind in HUBS and one.name not in doubtful for one in own)
    return own if has_gateway else sources


@dataclass(frozen=True, slots=True)
class Question:
    """What a spare hub is asked.

    Attributes:
        repo: As the user named it.
        primary: What this site's gateway says that it is.
        wanted: Returns what the user asked of a source: a branch, a tag, a commit.
        aliases: The user's own names for repositories.
    """

    repo: RepoId
    primary: Resolution
    wanted: Callable[[Source], Revision | None]
    aliases: Mapping[str, HubNames]

    def revisions(self, source: Source) -> list[Revision | None]:
        """Returns what to ask for, in this order; whatever it is, the digest decides."""
        has_commits = source.kind == "huggingface" and self.primary.has_git_commit
        commit: list[Revision | None] = [Revision(self.primary.commit)] if has_commits else []
        return [*commit, self.wanted(source)]


class Spare:
    """One hub that was not asked. Thread-safe; asked once for all files of a brief."""

    def __init__(self, source: Source, question: Question, health: Health) -> None:
        self._source = source
        self._question = question
        self._health = health
        self._lock = threading.Lock()
        self._answer: Resolution | RepoUnavailable | None = None

    def locate(self, file: FileTrust) -> Target:
        """Returns where the bytes of a file are there.

        Raises:
            RemoteError: It could not be asked, or has not these bytes.
        """
        resolution = self._resolution()
        promise = file.first_promise
        for one in resolution.files:
            same = promise.sha256 is not None and one.sha256 == promise.sha256
            same = same or (promise.git_sha1 is not None and one.git_sha1 == promise.git_sha1)
            if one.path == file.path and same:
                return self._source.locate(resolution, file.path)
        raise RepoUnavailable(
            NotFound(
                "{name} does not have the bytes of {path} that were promised elsewhere",
                hint="the model has moved on there; ask again once this site's gateway answers",
                name=self._source.name,
                path=file.path,
            ),
            source=self._source.name,
        )

    def explain(self, error: StatusError) -> ZhcacheError | None:
        """Returns what a status means for the user; see ``Source.explain``."""
        answer = self._answer
        return self._source.explain(answer, error) if isinstance(answer, Resolution) else None

    def _resolution(self) -> Resolution:
        with self._lock:
            if self._answer is None:
                self._answer = self._ask()
            if isinstance(self._answer, RepoUnavailable):
                raise self._answer
            return self._answer

    def _ask(self) -> Resolution | RepoUnavailable:
        """Returns its answer; one that it may give otherwise in a moment is raised."""
        name, question = self._source.name, self._question
        refusal = missing_or_private(name, str(question.repo))
        for revision in question.revisions(self._source):
            began = time.monotonic()
            try:
                found = resolve_by_any_name(
                    self._source, question.repo, revision, DEADLINE_S, question.aliases
                )
            except RepoUnavailable as no:
                refusal = no
            except RemoteError as error:
                self._health.failed(name, error)
                raise
            else:
                self._health.observe(name, Answered(time.monotonic() - began))
                return found
        return refusal


def spares(
    sources: Sequence[Source], answers: Answers, question: Question, health: Health
) -> dict[str, Spare]:
    """Returns the hubs of ``sources`` that no question went to, by name."""
    heard = {one.source for one in answers.found} | answers.failures.keys()
    return {
        one.name: Spare(one, question, health)
        for one in sources
        if one.kind in HUBS and one.name not in heard
    }
