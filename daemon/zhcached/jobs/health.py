"""What is remembered of each source, across jobs and restarts.

The decisions are ``sources.ranking``; here is the memory: one record a source, changed under a
lock, written to the index at most once a second, and when the daemon ends.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from zhcache.protocol.messages import ErrorInfo, SourceInfo
from zhcached.clock import Clock
from zhcached.config import SourceConfig
from zhcached.sources import ranking
from zhcached.store.catalog import Catalog

SAVE_EVERY_S = 1.0
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ranking.Health)


class Health:
    """The sources' records. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        sources: Sequence[SourceConfig],
        clock: Clock,
        slow_below: float = 64 * 2**10,
    ) -> None:
        self._catalog = catalog
        self._sources = {source.name: source for source in sources}
        self._clock = clock
        self._slow_below = slow_below
        self._lock = threading.Lock()
        self._records = _load(catalog)
        self._saved_at = dict.fromkeys(self._sources, 0.0)

    def observe(self, name: str, event: ranking.Event) -> None:
        """Folds one event into a source's record."""
        now = self._clock.wall()
        with self._lock:
            record = ranking.observe(self._records.get(name, ranking.Health()), event, now)
            self._records[name] = record
            lately = 0 <= now - self._saved_at.get(name, 0.0) < SAVE_EVERY_S
            if lately and isinstance(event, ranking.Delivered):
                return
            self._saved_at[name] = now
        self._catalog.save_health(name, _encoder.encode(record))

    def ranked(self) -> list[ranking.Ranked]:
        """Returns all sources, best first."""
        with self._lock:
            records = dict(self._records)
        names = list(self._sources)
        return ranking.rank(names, records, self._clock.wall(), slow_below=self._slow_below)

    def doubtful(self) -> set[str]:
        """Returns the sources that failed or lied lately."""
        now = self._clock.wall()
        with self._lock:
            return {n for n, record in self._records.items() if ranking.is_doubtful(record, now)}

    def report(self) -> list[SourceInfo]:
        """Returns the sources as ``zhcache sources`` shows them, best first."""
        shown: list[SourceInfo] = []
        for place, ranked in enumerate(self.ranked(), start=1):
            source = self._sources[ranked.name]
            with self._lock:
                record = self._records.get(ranked.name, ranking.Health())
            shown.append(
                SourceInfo(
                    name=source.name,
                    kind=source.kind,
                    endpoint=source.endpoint,
                    state=ranked.state,
                    rate=record.rate,
                    error=_error(ranked, record),
                    bytes=record.bytes,
                    rank=place,
                    reason=ranked.reason,
                )
            )
        return shown


def _error(ranked: ranking.Ranked, record: ranking.Health) -> ErrorInfo | None:
    if not record.last_error:
        return None
    code = "integrity" if ranked.state == "lying" else "sources_failed"
    return ErrorInfo(code=code, message=record.last_error)


def _load(catalog: Catalog) -> dict[str, ranking.Health]:
    records: dict[str, ranking.Health] = {}
    for name, text in catalog.load_health().items():
        try:
            records[name] = _decoder.decode(text)
        except msgspec.MsgspecError:
            # An older or damaged record is only a memory; measuring starts anew.
            continue
    return records
