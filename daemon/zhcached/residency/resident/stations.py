"""All stations of a daemon: one for each kind of pipeline, their attendants, and their room.

One lock guards all of them; nothing slow is done under it. Attendants (``tending``) do what takes
time, each in a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from itertools import count

import structlog

from zhcache.errors import NoSpace
from zhcache.protocol import residency
from zhcache.protocol.messages import Resident
from zhcache.protocol.names import parse_repo
from zhcached.clock import Clock
from zhcached.config import ResidencyConfig
from zhcached.residency.arena.contents import contents
from zhcached.residency.devices import CPU, Devices
from zhcached.residency.launch.launch import Launcher
from zhcached.residency.resident import places
from zhcached.residency.resident.artifacts import Artifacts
from zhcached.residency.resident.house import ArenaSource
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.patience import Patience
from zhcached.residency.resident.station import Station
from zhcached.residency.resident.tending import Attendant
from zhcached.store.store import Store

GPU_CONTEXT = 600 * 2**20
"""Bytes that a CUDA context takes of a device, weights apart."""

WAIT_S = 5.0

log = structlog.get_logger()


class Stations:
    """The stations, and what their attendants need.

    Args:
        store: Where the snapshots are.
        config: Limits.
        clock: Time.
        launcher: Starts workers.
        devices: What devices there are.
        arenas: Weights in GPU memory.
        patience: How long is waited for what.
    """

    def __init__(
        self,
        store: Store,
        config: ResidencyConfig,
        clock: Clock,
        launcher: Launcher,
        devices: Devices,
        arenas: ArenaSource,
        patience: Patience,
    ) -> None:
        self.lock = threading.Condition()
        self.launcher = launcher
        self.arenas = arenas
        self.artifacts = Artifacts(store.layout.root / "compile", self._gpu_name)
        self.patience = patience
        self.is_closed = False
        self._store = store
        self._config = config
        self._clock = clock
        self._devices = devices
        self._by_kind: dict[Kind, Station] = {}
        self._numbers = count(1)
        self._threads: set[threading.Thread] = set()

    # --- under the lock --------------------------------------------------------------------------

    def all(self) -> Collection[Station]:
        """Returns the stations there are."""
        return list(self._by_kind.values())

    def of(self, kind: Kind, uid: int) -> Station:
        """Returns the station of a kind, made for ``uid`` if there is none."""
        if kind not in self._by_kind:
            number = next(self._numbers)
            self._by_kind[kind] = Station(number, kind, uid, self._clock, self.patience)
        return self._by_kind[kind]

    def tend(self, station: Station) -> None:
        """Sees to it that a station has an attendant, and so a worker in time."""
        if station.is_tended or self.is_closed:
            return
        station.begin()
        thread = threading.Thread(
            target=Attendant(station, self).run, name=f"resident-{station.number}", daemon=True
        )
        self._threads = {thread for thread in self._threads if thread.is_alive()} | {thread}
        thread.start()

    def left(self, station: Station) -> None:
        """Takes notice that a station's attendant ends."""
        station.is_tended = False
        station.is_ending = False
        station.is_placed = False
        station.bytes = 0
        if station.needs_worker:
            # Somebody came between the attendant's last look and now.
            self.tend(station)
        self.drop_if_empty(station)

    def drop_if_empty(self, station: Station) -> None:
        """Forgets a station that has neither client nor worker, nor a death to remember."""
        if station.is_tended or station.guests or station.is_busy or station.falls.is_resting:
            return
        if self._by_kind.get(station.kind) is station:
            del self._by_kind[station.kind]
            station.bell.close()

    def let_go(self, device: str, need_bytes: int) -> None:
        """Ends idle workers on a device, the longest unused first, until that many bytes go."""
        idle = [s for s in self.all() if s.is_placed and s.kind.device == device and s.may_go]
        for station in sorted(idle, key=lambda s: (not s.is_ending, s.is_kept, s.used)):
            if need_bytes <= 0:
                return
            need_bytes -= station.bytes
            if not station.is_ending:
                log.info("resident.let_go", station=str(station.kind))
                station.end()

    # --- without it ------------------------------------------------------------------------------

    def admit(self, station: Station) -> bool:
        """Waits for room for the station's worker; tells whether one is still wanted.

        Raises:
            NoSpace: It would not fit if nothing else were there.
            ZhcacheError: The snapshot is gone, or is no pipeline.
        """
        kind = station.kind
        weights = sum(c.bytes for c in contents(self._store, parse_repo(kind.repo), kind.commit))
        is_cpu = kind.device == CPU
        need = weights if is_cpu else weights + GPU_CONTEXT
        share = self._config.ram if is_cpu else self._config.vram
        capacity = self._devices.capacity(kind.device, share)
        if need > capacity:
            raise NoSpace(
                "{repo} takes {need} bytes on {device}, and {room} may be used there",
                hint="raise residency.ram or residency.vram in config.toml",
                repo=kind.repo,
                need=need,
                device=kind.device,
                room=capacity,
            )
        while True:
            # Asked without the lock, since arenas ask here in turn. On a GPU our own weights are
            # arenas: whoever else has some there is waited for when they are asked for.
            room = capacity - (self.arenas.bytes_on(CPU) if is_cpu else 0)
            with self.lock:
                if not station.is_wanted or station.is_ending:
                    return False
                if self._has_place(station, need, room):
                    station.bytes = need
                    station.is_placed = True
                    return True
                self.lock.wait(WAIT_S)

    def folder(self, station: Station) -> str:
        """Returns where the station's snapshot lies."""
        repo = parse_repo(station.kind.repo)
        return str(self._store.view.snapshot_dir(repo, station.kind.commit))

    def join(self, timeout_s: float) -> None:
        """Waits for the attendants that were told to end, at most so long in all."""
        until = time.monotonic() + timeout_s
        with self.lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))

    def _has_place(self, station: Station, need: int, room: int) -> bool:
        placed = {s.number: s for s in self.all() if s.is_placed and s is not station}
        decided = places.plan(
            [_place(other) for other in placed.values()],
            device=station.kind.device,
            need_bytes=need,
            room_bytes=room,
            workers=self._config.workers,
        )
        if isinstance(decided, places.LetGo):
            for number in decided.names:
                if not placed[number].is_ending:
                    log.info("resident.let_go", station=str(placed[number].kind))
                placed[number].end()
        if isinstance(decided, places.Wait):
            note = "waits for room: " + ("; ".join(decided.holders[:3]) or "others hold it")
            station.tell_waiting(residency.Progress(note=note))
        return isinstance(decided, places.Admit)

    def _gpu_name(self, uuid: str) -> str:
        return next((gpu.name for gpu in self._devices.list() if gpu.uuid == uuid), uuid)


def _place(station: Station) -> places.Place:
    return places.Place(
        name=station.number,
        device=station.kind.device,
        bytes=station.bytes,
        holder=f"{station.kind} of {users(station)}",
        used=station.used,
        is_idle=station.may_go,
        is_kept=station.is_kept,
        is_ending=station.is_ending,
    )


def users(station: Station) -> str:
    """Returns who has a station, in words."""
    uids = sorted({guest.uid for guest in station.guests}) or [station.uid]
    return ", ".join(f"uid {uid}" for uid in uids)


def line_of(station: Station) -> Resident:
    """Returns a station as it is listed."""
    return Resident(
        repo=station.kind.repo,
        variant=station.kind.variant,
        device=station.kind.device,
        bytes=station.bytes,
        leases=len(station.guests),
        uid=station.uid,
        expires=station.expires(),
        mode="resident",
        commit=station.kind.commit,
        pid=station.pid,
        running=int(station.current is not None),
        queued=len(station.turns),
    )
