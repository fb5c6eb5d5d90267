"""Asking the sources how they are, now: does each answer, do its bytes come, and how fast?

Everything goes the way a download goes: ``Source.resolve`` and ``Source.locate``, so that whatever
kind of source it is, the planes that are probed are those that would be used.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from zhcache.errors import Busy, UsageError, ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import ErrorInfo, SourceInfo
from zhcache.protocol.names import RepoId, parse_repo
from zhcache.protocol.probe import SourceTested
from zhcache.protocol.sources import Phrase
from zhcached.errors import (
    RemoteError,
    RepoUnavailable,
    StatusError,
    TokenRefused,
    TransportError,
)
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.sample import DATA_S, sample, worth_sampling
from zhcached.sources.base import RemoteFile, Resolution, Source, Tier
from zhcached.sources.health import Answered, Delivered
from zhcached.sources.ranking import host_of
from zhcached.sources.registry import resolve_by_any_name
from zhcached.transport.http import Target, Transport
from zhcached.transport.quota import Quotas

METADATA_S = 10.0
WELL_KNOWN = parse_repo("stable-diffusion-v1-5/stable-diffusion-v1-5")
"""Asked for where nothing of a source is here; every hub has it, under one name or another."""
NOWHERE = parse_repo("zhcache/is-anybody-there")
"""A name that no hub has: its no is the cheapest answer there is, one request."""
SPARED = mark("not asked: its request budget is nearly spent")
UNTRIED = mark("answers; has not {repo}, so no bytes were asked for")
BYTES_ALONE = mark("answers; it lists nothing, so no bytes were asked for")
_SLICE_S = 0.25
_SLACK_S = 2.0

T = TypeVar("T")


@dataclass(slots=True)
class Found:
    """What came of asking one source; ``lists`` is false of one that has bytes alone."""

    asked: str = ""
    lists: bool = True
    is_found: bool = False
    latency: float | None = None
    plane: str = ""
    bytes: int = 0
    first_byte: float | None = None
    rate: float | None = None
    error: Exception | None = None
    was_spared: bool = False


class Prober:
    """Asks the sources. Thread-safe.

    Args:
        sources: All there are.
        transport: The way there.
        quotas: A budget that runs low is left to who wants bytes.
        health: Told what came.
        known_at: Returns a repository that is here and came from a source of that name.
        tiers: Stores that have bytes alone.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        transport: Transport,
        quotas: Quotas,
        health: Health,
        known_at: Callable[[str], str | None] = lambda _: None,
        tiers: Sequence[Tier] = (),
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._tiers = {tier.name: tier for tier in tiers}
        self._transport = transport
        self._quotas = quotas
        self._health = health
        self._known_at = known_at
        self._testing = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends what is under way; its threads are left behind."""
        self._stopped.set()

    def test(self, name: str | None) -> list[SourceTested]:
        """Asks one source, or all at once, on both planes; in ``METADATA_S`` and ``sample.DATA_S``.

        Raises:
            UsageError: There is no source of that name.
            Busy: A test is under way; the hubs need not answer two.
        """
        names = self._names() if name is None else [self._named(name)]
        if not self._testing.acquire(blocking=False):
            raise Busy("the sources are being tested just now", hint="try again in some seconds")
        try:
            late = Found(error=TransportError("no answer in time"))
            came = self._at_once({n: partial(self._ask, n) for n in names})
            found = {n: came.get(n, late) for n in names}
        finally:
            self._testing.release()
        shown = {info.name: info for info in self._health.report()}
        return [_tested(shown[name], found[name]) for name in names]

    def look(self, name: str) -> None:
        """Asks the metadata plane alone, by one request, and remembers what came."""
        if not self._is_low(self._one(name)):
            self._at_once({name: partial(self._look, name)})

    def _look(self, name: str) -> None:
        began = time.monotonic()
        try:
            if name in self._tiers:
                self._tiers[name].probe(METADATA_S)
            else:
                self._sources[name].resolve(NOWHERE, None, METADATA_S)
        except RemoteError as error:
            if not _lives(error):
                self._health.failed(name, error)
                return
        self._health.observe(name, Answered(time.monotonic() - began))

    def _names(self) -> list[str]:
        return [*self._sources, *self._tiers]

    def _one(self, name: str) -> Tier | Source:
        return self._tiers[name] if name in self._tiers else self._sources[name]

    def _named(self, name: str) -> str:
        if name not in self._names():
            raise UsageError(
                "there is no source named {name}",
                hint="zhcache sources lists them: {known}",
                name=name[:80],
                known=", ".join(self._names()),
            )
        return name

    def _at_once(self, calls: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """Returns what the calls return, those that end in time."""
        arrived: queue.Queue[tuple[str, T]] = queue.Queue()

        def work(name: str, call: Callable[[], T]) -> None:
            arrived.put((name, call()))

        for name, call in calls.items():
            # Daemon threads: one that hangs in a resolver must not keep anybody waiting.
            threading.Thread(target=work, args=(name, call), name="probe", daemon=True).start()
        came: dict[str, T] = {}
        until = time.monotonic() + METADATA_S + DATA_S + _SLACK_S
        while len(came) < len(calls) and (left := until - time.monotonic()) > 0:
            if self._stopped.is_set():
                break
            try:
                name, answer = arrived.get(timeout=min(left, _SLICE_S))
            except queue.Empty:
                continue
            came[name] = answer
        return came

    def _ask(self, name: str) -> Found:
        found = Found()
        if self._is_low(self._one(name)):
            found.was_spared = True
            return found
        if name in self._tiers:
            return self._ask_tier(self._tiers[name], found)
        source = self._sources[name]
        try:
            resolution = self._resolve(source, found)
            if resolution is not None and (file := worth_sampling(resolution.files)) is not None:
                self._sample(source, source.locate(resolution, file.path), file, found)
        except (RemoteError, ZhcacheError, OSError) as error:
            found.error = error
        return found

    def _ask_tier(self, tier: Tier, found: Found) -> Found:
        found.lists = False
        began = time.monotonic()
        try:
            tier.probe(METADATA_S)
        except RemoteError as error:
            self._health.failed(tier.name, error)
            found.error = error
        else:
            found.latency = time.monotonic() - began
            self._health.observe(tier.name, Answered(found.latency))
        return found

    def _is_low(self, source: Tier | Source) -> bool:
        closed = self._quotas.closed_s(source.origin) > 0
        return self._quotas.is_low(source.origin) and not closed

    def _resolve(self, source: Source, found: Found) -> Resolution | None:
        known = self._known_at(source.name)
        for repo in dict.fromkeys([parse_repo(known)] if known else []) | {WELL_KNOWN: None}:
            found.asked = str(repo)
            began = time.monotonic()
            resolution = self._resolve_one(source, repo)
            found.latency = time.monotonic() - began
            self._health.observe(source.name, Answered(found.latency))
            if resolution is not None:
                found.is_found = True
                return resolution
        return None

    def _resolve_one(self, source: Source, repo: RepoId) -> Resolution | None:
        try:
            return resolve_by_any_name(source, repo, None, METADATA_S)
        except TokenRefused:
            # It lives, and without the right token nothing of it is to be had.
            raise
        except RemoteError as error:
            if _lives(error):
                return None
            self._health.failed(source.name, error)
            raise

    def _sample(self, source: Source, target: Target, file: RemoteFile, found: Found) -> None:
        try:
            came = sample(self._transport, target, file)
        except RemoteError as error:
            found.plane = host_of(error.place)
            self._health.failed(source.name, error, error.place)
            raise
        found.plane, found.bytes = host_of(came.place), came.bytes
        found.first_byte = came.first_byte
        found.rate = came.bytes / came.seconds if came.seconds else None
        self._health.observe(source.name, Answered(came.first_byte), came.place)
        self._health.observe(source.name, Delivered(came.bytes, came.seconds), came.place)


def _lives(error: RemoteError) -> bool:
    """Tells whether an error is an answer all the same: whatever is below 500 is one. Pure."""
    if isinstance(error, RepoUnavailable):
        return True
    return isinstance(error, StatusError) and error.status < 500 and error.status != 429


def _tested(info: SourceInfo, found: Found) -> SourceTested:
    works = found.error is None
    if found.was_spared:
        works = info.state not in ("down", "lying")
    reasons = info.reasons if found.is_found else []
    if found.was_spared:
        reasons = [Phrase(template=SPARED)]
    elif works and not found.lists:
        reasons = [Phrase(template=BYTES_ALONE)]
    elif works and not found.is_found:
        reasons = [Phrase(template=UNTRIED, values={"repo": found.asked})]
    return SourceTested(
        name=info.name,
        kind=info.kind,
        endpoint=info.endpoint,
        state=info.state if works else "limited" if info.limited_until else "down",
        works=works,
        reasons=reasons,
        asked=found.asked,
        found=found.is_found,
        latency=found.latency,
        plane=found.plane,
        bytes=found.bytes,
        first_byte=found.first_byte,
        rate=found.rate,
        fault=found.error.kind if isinstance(found.error, RemoteError) else "",
        error=_info(found.error),
        limited_until=info.limited_until,
    )


def _info(error: Exception | None) -> ErrorInfo | None:
    if error is None:
        return None
    if isinstance(error, RepoUnavailable):
        return to_info(error.error)
    if isinstance(error, ZhcacheError):
        return to_info(error)
    return ErrorInfo(code="sources_failed", message=str(error))
