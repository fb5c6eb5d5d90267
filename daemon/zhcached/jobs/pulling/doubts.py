"""Files of which bytes were taken back lately: whoever resumes one may hold wrong bytes of it.

A client was given bytes before the file was proven, went away, and comes back for the rest; had
the first bytes been wrong, it would end with a wrong file. So for a while nobody may resume such a
file. This is kept on disk: a restart of the daemon must not make it forgotten.
"""

from __future__ import annotations

import threading

import msgspec
import structlog

from zhcache.errors import ZhcacheError
from zhcached.clock import Clock
from zhcached.store import files
from zhcached.store.store import Store

LIFE_S = 86400.0
"""Who broke off in the evening goes on in the morning."""

AFTER_KILL_S = 3600.0
"""For what is wrong only if a source lied besides: clients that fetch in ranges fail as long."""

log = structlog.get_logger()


class _Kept(msgspec.Struct):
    """``times`` is by key, in seconds since the epoch; ``is_clean`` after an orderly end."""

    is_clean: bool = False
    times: dict[str, float] = {}


class Doubts:
    """Thread-safe.

    Args:
        store: Tells when bytes are taken back.
        clock: The time.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._clock = clock
        self._path = store.layout.root / "taken-back.json"
        self._lock = threading.Lock()
        kept = self._read()
        self._times = kept.times
        if not kept.is_clean:
            # Of what came last nothing was made durable; it may come anew from another source.
            since = clock.wall() - LIFE_S + AFTER_KILL_S
            for key in store.ingests.unfinished():
                self._times[key] = max(self._times.get(key, since), since)
        if kept.is_clean or self._times:
            self._write(is_clean=False)
        store.ingests.on_discard = self.add

    def has(self, key: str) -> bool:
        """Tells whether bytes of a key were taken back lately."""
        at = self._times.get(key)
        return at is not None and abs(self._clock.wall() - at) < LIFE_S

    def add(self, key: str) -> None:
        """Bytes of a key are taken back. A full disk must not keep them from being so."""
        with self._lock:
            self._times[key] = self._clock.wall()
            try:
                self._write(is_clean=False)
            except ZhcacheError as error:
                log.warning("doubt.not_kept", key=key, error=str(error))

    def close(self) -> None:
        """An orderly end: all ingests are closed, and what they hold is durable."""
        with self._lock:
            self._write(is_clean=True)

    def _write(self, *, is_clean: bool) -> None:
        self._times = {key: at for key, at in self._times.items() if self.has(key)}
        record = msgspec.json.encode(_Kept(is_clean, self._times))
        files.write_durably(self._path, record, 0o600)

    def _read(self) -> _Kept:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            # A store without one was never served from.
            return _Kept(is_clean=True)
        except msgspec.DecodeError:
            return _Kept()
