"""What is remembered of each source, across jobs and restarts.

What a record is made of is ``sources.health``, what follows from it ``sources.ranking``; here is
the memory: one record a source, changed under a lock, written to the index at most once a second,
and when the daemon ends.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import msgspec

from zhcache.protocol.messages import ErrorInfo, PlaneInfo, SourceInfo, SourceState
from zhcache.protocol.sources import Phrase
from zhcached.clock import Clock
from zhcached.config import SourceConfig
from zhcached.errors import (
    AddressRefused,
    KeyRefused,
    LimitedError,
    RemoteError,
    RemoteInvalid,
    RepoUnavailable,
    StatusError,
    TransportError,
)
from zhcached.sources import health as records
from zhcached.sources import ranking
from zhcached.sources.health import METADATA, Answered, Delivered, Event, Failed, Limited, Plane
from zhcached.store.catalog import Catalog
from zhcached.store.kept import load_health, save_health
from zhcached.transport.address import Origin
from zhcached.transport.quota import Quotas

SAVE_EVERY_S = 1.0
UNSTATED_LIMIT_S = 60.0
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(records.Health)


def event_of(error: Exception) -> Event | None:
    """Returns what ``error`` says about the health of who caused it; None if nothing. Pure."""
    if isinstance(error, RepoUnavailable):
        # A definite no is an answer.
        return Answered()
    if isinstance(error, LimitedError):
        # Nobody was asked; what was said before counts already.
        return None
    if isinstance(error, StatusError) and error.status == 429:
        return Limited(error.retry_after_s or UNSTATED_LIMIT_S)
    if isinstance(error, KeyRefused):
        return Failed(str(error), error.kind, for_good=True)
    if isinstance(error, (TransportError, StatusError, RemoteInvalid, AddressRefused)):
        return Failed(str(error), error.kind)
    return None


class Health:
    """The sources' records. Thread-safe.

    Args:
        catalog: Keeps them.
        sources: In the order of the configuration.
        clock: The time.
        quotas: Told of what earlier runs were asked to wait for, and asked how long it is still.
        slow_below: Bytes per second under which a source is called slow.

    Attributes:
        near: The sources of this machine or its site.
    """

    def __init__(
        self,
        catalog: Catalog,
        sources: Sequence[SourceConfig],
        clock: Clock,
        quotas: Quotas | None = None,
        slow_below: float = ranking.SLOW_BELOW,
    ) -> None:
        self._catalog = catalog
        self._sources = {source.name: source for source in sources}
        self.clock = clock
        self._quotas = quotas
        self.near = frozenset(one.name for one in sources if one.is_near)
        self._slow_below = slow_below
        self._lock = threading.Lock()
        self._notes: dict[str, Phrase] = {}
        self._records = _load(catalog)
        self._saved_at = dict.fromkeys(self._sources, 0.0)
        self._resume_waits()

    def observe(self, name: str, event: Event, plane: str = METADATA) -> None:
        """Folds one event into a source's record."""
        now = self.clock.wall()
        with self._lock:
            known = self._records.get(name, records.Health())
            record = records.observe(known, event, now, plane)
            self._records[name] = record
            lately = 0 <= now - self._saved_at.get(name, 0.0) < SAVE_EVERY_S
            if lately and isinstance(event, Delivered | Answered):
                return
            self._saved_at[name] = now
        save_health(self._catalog, name, _encoder.encode(record))

    def failed(self, name: str, error: RemoteError, plane: str = METADATA) -> None:
        """Folds what an error says into a source's record, if it says anything."""
        event = event_of(error)
        if isinstance(event, Limited) and self._quotas is not None:
            event = Limited(self.closed_s(name, plane))
        if event is not None:
            self.observe(name, event, plane)

    def note(self, name: str, phrase: Phrase | None) -> None:
        """Adds to what is told of a source what says nothing of the bytes that it sends."""
        with self._lock:
            if phrase is None:
                self._notes.pop(name, None)
            else:
                self._notes[name] = phrase

    def closed_s(self, name: str, plane: str = METADATA) -> float:
        """Returns for how many seconds a plane of a source is sent no request."""
        source = self._sources.get(name)
        origin = _origin(plane or (source.endpoint if source else ""))
        return self._quotas.closed_s(origin) if self._quotas and origin else 0.0

    def save(self) -> None:
        """Writes all records down."""
        with self._lock:
            known = dict(self._records)
        for name, record in known.items():
            save_health(self._catalog, name, _encoder.encode(record))

    def record(self, name: str) -> records.Health:
        """Returns what is remembered of a source now."""
        with self._lock:
            known = self._records.get(name, records.Health())
        return records.aged(known, self.clock.wall())

    def ranked(self) -> list[ranking.Ranked]:
        """Returns all sources, best first for bytes."""
        known, now = self._now()
        return ranking.rank(
            list(self._sources), known, now, slow_below=self._slow_below, near=self.near
        )

    def for_metadata(self) -> list[str]:
        """Returns the names of all sources, best first for asking what a repository is."""
        known, now = self._now()
        ranked = ranking.rank(
            list(self._sources), known, now, slow_below=self._slow_below, near=self.near
        )
        return ranking.rank_metadata(ranked, known, now)

    def rates(self) -> dict[str, float | None]:
        """Returns the bytes per second to expect of each source, best first for bytes."""
        return {ranked.name: self.rate(ranked.name) for ranked in self.ranked()}

    def rate(self, name: str) -> float | None:
        """Returns the bytes per second that a source gave lately, over all jobs."""
        return ranking.rate_of(self.record(name))

    def doubtful(self) -> set[str]:
        """Returns the sources that were silent or lied lately."""
        known, now = self._now()
        return {name for name, record in known.items() if ranking.is_doubtful(record, now)}

    def silent(self) -> list[str]:
        """Returns the sources that have not answered for some time."""
        known, now = self._now()
        return [name for name in self._sources if ranking.is_silent(known[name], now)]

    def report(self) -> list[SourceInfo]:
        """Returns the sources as ``zhcache sources`` shows them, best first."""
        known, now = self._now()
        ranked = ranking.rank(
            list(self._sources), known, now, slow_below=self._slow_below, near=self.near
        )
        return [
            self._info(entry, known[entry.name], place, now)
            for place, entry in enumerate(ranked, start=1)
        ]

    def _info(
        self, ranked: ranking.Ranked, record: records.Health, place: int, now: float
    ) -> SourceInfo:
        source = self._sources[ranked.name]
        until = ranking.limited_until(record)
        if (note := self._notes.get(ranked.name)) is not None:
            ranked = msgspec.structs.replace(ranked, reasons=(*ranked.reasons, note))
        return SourceInfo(
            name=source.name,
            kind=source.kind,
            endpoint=source.endpoint,
            state=ranked.state,
            rate=ranking.rate_of(record),
            error=_error(ranked.state, record),
            bytes=record.bytes,
            rank=place,
            reason=ranked.reason,
            reasons=list(ranked.reasons),
            planes=list(_planes(source.endpoint, record, now)),
            latency=record.metadata.latency,
            limited_until=until if until > now else None,
        )

    def _now(self) -> tuple[dict[str, records.Health], float]:
        """Returns all records as they are now, with what only the request budgets know."""
        now = self.clock.wall()
        with self._lock:
            known = {name: self._records.get(name, records.Health()) for name in self._sources}
        aged = {name: records.aged(record, now) for name, record in known.items()}
        return {name: self._limited(name, record, now) for name, record in aged.items()}, now

    def _limited(self, name: str, record: records.Health, now: float) -> records.Health:
        """Returns the record with the waits that are still to come at the hub itself."""
        origin = _origin(self._sources[name].endpoint)
        if self._quotas is None or origin is None:
            return record
        words_s = self._quotas.closed_s(origin, "words")
        if words_s > 0:
            metadata = _waiting(record.metadata, now + words_s)
            record = msgspec.structs.replace(record, metadata=metadata)
        bytes_s = self._quotas.closed_s(origin, "bytes")
        if bytes_s > 0:
            place = str(origin)
            data = {**record.data, place: _waiting(record.plane(place), now + bytes_s)}
            record = msgspec.structs.replace(record, data=data)
        return record

    def _resume_waits(self) -> None:
        now = self.clock.wall()
        for name, record in self._records.items():
            source = self._sources.get(name)
            for plane, known in (("", record.metadata), *record.data.items()):
                origin = _origin(plane or (source.endpoint if source else ""))
                if self._quotas and origin and known.limited_until > now:
                    self._quotas.rest(origin, known.limited_until - now)


def _origin(url: str) -> Origin | None:
    """Returns the origin of an endpoint; a folder has none."""
    try:
        return Origin.parse(url)
    except AddressRefused:
        return None


def _waiting(plane: Plane, until: float) -> Plane:
    return msgspec.structs.replace(plane, limited_until=max(plane.limited_until, until))


def _planes(endpoint: str, record: records.Health, now: float) -> Iterable[PlaneInfo]:
    origin = _origin(endpoint)
    host = origin.authority if origin else endpoint
    if record.metadata != Plane(seen=record.metadata.seen):
        yield _plane("metadata", host, record.metadata, now)
    for name, plane in record.data.items():
        yield _plane("data", ranking.host_of(name), plane, now)


def _plane(kind: str, host: str, plane: Plane, now: float) -> PlaneInfo:
    return PlaneInfo(
        plane=kind,
        host=host,
        state=ranking.plane_state(plane, now),
        rate=plane.rate,
        latency=plane.latency,
        bytes=plane.bytes,
        faults={kind: max(1, round(count)) for kind, count in plane.faults.items()},
        error=plane.last_error,
        limited_until=plane.limited_until if plane.limited_until > now else None,
    )


def _error(state: SourceState, record: records.Health) -> ErrorInfo | None:
    if state == "lying":
        return ErrorInfo(code="integrity", message=record.lie)
    last = max((record.metadata, *record.data.values()), key=lambda plane: plane.error_at)
    if not last.last_error:
        return None
    return ErrorInfo(code="sources_failed", message=last.last_error)


def _load(catalog: Catalog) -> dict[str, records.Health]:
    known: dict[str, records.Health] = {}
    for name, text in load_health(catalog).items():
        try:
            known[name] = _decoder.decode(text)
        except msgspec.MsgspecError:
            # An older or damaged record is only a memory; measuring starts anew.
            continue
    return known
