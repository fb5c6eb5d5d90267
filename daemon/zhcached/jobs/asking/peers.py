"""Which peers would send a job's files by digest, of whatever repository they have them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Mapping, Sequence

import msgspec

from zhcached.errors import RemoteError, RepoUnavailable
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.resolve import Answers
from zhcached.sources.base import DigestSource, Source
from zhcached.sources.trust import Comparison, FileTrust

DEADLINE_S = 3.0


def with_peers(
    comparison: Comparison, sources: Sequence[Source], answers: Answers, health: Health
) -> Comparison:
    """Returns the comparison with the peers that have files of it by digest.

    A peer that did not answer when the sources were asked is not asked again: nobody waits for it.
    """
    digests = {file.promise.sha256 for file in comparison.files} - {None}
    peers = [s for s in sources if isinstance(s, DigestSource) and _lives(s.name, answers)]
    if not peers or not digests:
        return comparison
    held = _held(peers, {digest for digest in digests if digest}, health)
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


def _held(
    peers: Sequence[DigestSource], digests: Collection[str], health: Health
) -> dict[str, set[str]]:
    arrived: queue.Queue[tuple[str, set[str] | RemoteError]] = queue.Queue()

    def ask(peer: DigestSource) -> None:
        try:
            arrived.put((peer.name, peer.holding(digests, DEADLINE_S)))
        except RemoteError as error:
            arrived.put((peer.name, error))

    for peer in peers:
        # Daemon threads: one that hangs must not keep the process from ending.
        threading.Thread(target=ask, args=(peer,), name="peer", daemon=True).start()
    held: dict[str, set[str]] = {}
    until = time.monotonic() + DEADLINE_S
    for _ in peers:
        try:
            name, answer = arrived.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(answer, RemoteError):
            health.failed(name, answer)
        else:
            held[name] = answer
    return held
