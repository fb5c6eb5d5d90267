"""Who would send a job's files by digest, of whatever repository: peers, and stores of the site."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import msgspec

from zhcached.errors import RemoteError, RepoUnavailable
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.resolve import Answers
from zhcached.sources.base import DigestSource, Holder, Source, Tier
from zhcached.sources.health import Answered
from zhcached.sources.trust import Comparison, FileTrust

H = TypeVar("H", bound=Holder)
T = TypeVar("T")

DEADLINE_S = 3.0
# What came within the deadline is told by a thread that has yet to say so.
_SLACK_S = 0.2


def with_holders(
    comparison: Comparison,
    sources: Sequence[Source],
    tiers: Sequence[Tier],
    answers: Answers,
    health: Health,
    is_here: Callable[[str], bool],
) -> Comparison:
    """Returns the comparison with the peers and tiers that have files of it by digest.

    Nobody is asked for what is here: a look at a model that has not changed costs no request.

    A peer that did not answer when the sources were asked is not asked again, and a tier that has
    been silent for some time is left to the background: nobody waits for them.
    """
    promised = {file.promise.sha256 for file in comparison.files}
    digests = {sha256 for sha256 in promised if sha256 and not is_here(sha256)}
    peers = [s for s in sources if isinstance(s, DigestSource) and _lives(s.name, answers)]
    silent = set(health.silent())
    asked = [*peers, *(tier for tier in tiers if tier.name not in silent)]
    if not asked or not digests:
        return comparison
    held = told(asked, lambda one: one.holding(digests, DEADLINE_S), health, DEADLINE_S)
    return msgspec.structs.replace(
        comparison, files=tuple(_served(file, held) for file in comparison.files)
    )


def _lives(name: str, answers: Answers) -> bool:
    found = any(one.source == name for one in answers.found)
    return found or isinstance(answers.failures.get(name), RepoUnavailable)


def _served(file: FileTrust, held: Mapping[str, Collection[str]]) -> FileTrust:
    also = [
        name
        for name, digests in held.items()
        if file.promise.sha256 in digests and name not in file.served_by
    ]
    return msgspec.structs.replace(file, served_by=(*file.served_by, *also)) if also else file


def told(
    asked: Sequence[H], question: Callable[[H], T], health: Health, deadline_s: float
) -> dict[str, T]:
    """Asks all at once; returns the answers that came in time, by name."""
    arrived: queue.Queue[tuple[str, T | RemoteError]] = queue.Queue()

    def ask(one: H) -> None:
        began = time.monotonic()
        try:
            found = question(one)
        except RemoteError as error:
            health.failed(one.name, error)
            arrived.put((one.name, error))
        else:
            health.observe(one.name, Answered(time.monotonic() - began))
            arrived.put((one.name, found))

    for one in asked:
        # Daemon threads: one that hangs must not keep the process from ending.
        threading.Thread(target=ask, args=(one,), name="holders", daemon=True).start()
    answers: dict[str, T] = {}
    until = time.monotonic() + deadline_s + _SLACK_S
    for _ in asked:
        try:
            name, answer = arrived.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if not isinstance(answer, RemoteError):
            answers[name] = answer
    return answers
