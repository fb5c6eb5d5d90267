"""What keeps arenas over a restart of the daemon: descriptors with the service manager, records.

The manager holds the memory and knows nothing of it; the records under ``residency/`` say what it
is and hold nothing. A daemon that starts keeps what has both. Memory does not outlive a boot, so no
record is made durable: one that a power cut spoils belongs to a boot that is over.

Source: sd_pid_notify_with_fds(3), FDSTORE, FDSTOREREMOVE, FDPOLL.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import structlog

from zhcache.protocol.residency import Arena
from zhcached import notify
from zhcached.residency.arena.fill import CPU, is_sealed
from zhcached.residency.arena.held import Held, Use
from zhcached.store.leases import boot_id

PREFIX = "arena-"
_STATE = "state.json"

log = structlog.get_logger()


class _Record(msgspec.Struct):
    """What never changes of an arena."""

    boot: str
    arena: Arena
    scope: str
    uid: int
    filled: float


class _State(msgspec.Struct):
    """What changes of it."""

    used: float
    keep_until: float
    snapshots: list[tuple[str, str]]
    leases: dict[str, Use]
    served: dict[int, float] = {}


class Custody:
    """The records of one store. Guarded by the lock of ``Arenas``.

    Args:
        folder: Where they lie; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boot = boot_id()

    def take_over(self, inherited: Iterable[tuple[str, int]]) -> list[Held]:
        """Returns the arenas of an earlier daemon whose memory and record are both there.

        Args:
            inherited: Names and descriptors from the service manager; now this object's.
        """
        states = self._states()
        found: dict[str, Held] = {}
        for name, fd in inherited:
            key = name.removeprefix(PREFIX)
            held = None if key in found else self._restored(key, fd, states.get(key))
            if held is None:
                log.info("arena.dropped", name=name, reason="nothing is known of it")
                os.close(fd)
                if key not in found:
                    notify.forget_fd(name)
            else:
                found[key] = held
        self._sweep(found.keys())
        return list(found.values())

    def _restored(self, key: str, fd: int, state: _State | None) -> Held | None:
        record = self._record(key)
        if record is None or state is None or record.boot != self._boot:
            return None
        arena = record.arena
        if arena.key != key or (arena.device == CPU and not is_sealed(fd, arena.bytes)):
            return None
        return Held(
            arena=arena,
            fd=fd,
            scope=record.scope,
            uid=record.uid,
            used=state.used,
            filled=record.filled,
            snapshots=set(state.snapshots),
            leases=dict(state.leases),
            served=dict(state.served),
            keep_until=state.keep_until,
            restored=set(state.leases),
        )

    def keep(self, held: Held) -> None:
        """Records an arena and gives its memory into the manager's keeping, if there is one."""
        record = _Record(self._boot, held.arena, held.scope, held.uid, held.filled)
        # The record first: a descriptor without one is closed by the next daemon.
        if self._write(f"{held.arena.key}.json", record):
            notify.store_fd(PREFIX + held.arena.key, held.fd)

    def note(self, held: Sequence[Held]) -> None:
        """Records who uses what, of all arenas."""
        states = {
            one.arena.key: _State(
                one.used, one.keep_until, sorted(one.snapshots), one.leases, one.served
            )
            for one in held
        }
        self._write(_STATE, states)

    def close(self, held: Held) -> None:
        """Closes our descriptor; what the manager keeps and the record stay."""
        os.close(held.fd)

    def forget(self, key: str) -> None:
        """Takes an arena out of the manager's keeping; our descriptor stays."""
        notify.forget_fd(PREFIX + key)
        with contextlib.suppress(OSError):
            (self._folder / f"{key}.json").unlink()

    def _write(self, name: str, content: object) -> bool:
        temporary = self._folder / f".{name}.tmp"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(content))
            temporary.replace(self._folder / name)
        except OSError as error:
            # A full disk costs the next daemon a fill, and this one's clients nothing.
            log.warning("arena.not_recorded", name=name, error=str(error))
            return False
        return True

    def _record(self, key: str) -> _Record | None:
        if not key.isalnum():
            return None
        try:
            return msgspec.json.decode((self._folder / f"{key}.json").read_bytes(), type=_Record)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def _states(self) -> dict[str, _State]:
        try:
            content = (self._folder / _STATE).read_bytes()
            return msgspec.json.decode(content, type=dict[str, _State])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}

    def _sweep(self, kept: Iterable[str]) -> None:
        """Deletes the records of memory that is gone."""
        names = {f"{key}.json" for key in kept} | {_STATE}
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.name not in names:
                    path.unlink()
