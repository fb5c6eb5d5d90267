"""The jobs' records in the index: what the next daemon knows of the jobs of this one."""

from __future__ import annotations

from typing import Final, get_args

import msgspec
import structlog

from zhcache.protocol.messages import JobState
from zhcached.clock import Clock
from zhcached.jobs import state
from zhcached.jobs.events import ENDED
from zhcached.store import kept
from zhcached.store.catalog import Catalog

KEEP_S: Final = 30 * 86400.0
UNFINISHED: Final = tuple(name for name in get_args(JobState) if name not in ENDED)

log = structlog.get_logger()
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(state.Record)


class History:
    """Records of jobs, kept and found again. Thread-safe."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    def keep(self, record: state.Record) -> None:
        """Writes a record durably, over the one before of the same job.

        Raises:
            NoSpace: No room.
            StoreDamaged: The index is damaged.
        """
        kept.save_job(
            self._catalog,
            job_id=record.id,
            key=record.key,
            kind=record.kind,
            state=state.name(record.state),
            uid=record.uid,
            created=record.created,
            updated=record.updated,
            record=_encoder.encode(record),
        )

    def load(self, *, newest: int) -> list[state.Record]:
        """Returns all jobs that had not ended and the ``newest`` that had, the oldest first.

        Those that ended long ago are forgotten.

        Raises:
            NoSpace: No room.
            StoreDamaged: The index is damaged.
        """
        kept.delete_jobs_before(self._catalog, self._clock.wall() - KEEP_S, ENDED)
        rows = kept.load_jobs(self._catalog, UNFINISHED, -1)
        rows += kept.load_jobs(self._catalog, ENDED, newest)
        found: list[state.Record] = []
        for _, row in reversed(rows):
            try:
                found.append(_decoder.decode(row))
            except msgspec.MsgspecError as error:
                log.warning("job.unreadable", error=str(error))
        return found
