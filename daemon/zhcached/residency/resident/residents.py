"""Resident pipelines: who has which, and which of them go.

A client opens a kind of pipeline and gets a seat at its station; equal kinds share one station and
one worker, whoever asks. A worker is launched when it is first wanted, ended when nobody has used
it for the time of ``keep_alive``, and earlier for another where room is needed and it is idle.
Thread-safe.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable

import structlog

from zhcache.errors import Busy, Cancelled, DaemonUnreachable, NotFound, ZhcacheError
from zhcache.protocol import residency
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import Resident
from zhcache.protocol.names import parse_repo, parse_revision
from zhcached.clock import Clock
from zhcached.config import ResidencyConfig
from zhcached.residency.devices import Devices
from zhcached.residency.launch.launch import Launcher
from zhcached.residency.resident import kinds
from zhcached.residency.resident.calls import Allowance, Listener
from zhcached.residency.resident.ear import Ear
from zhcached.residency.resident.guests import Guest
from zhcached.residency.resident.house import ArenaSource
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.patience import Patience
from zhcached.residency.resident.seats import Seat
from zhcached.residency.resident.station import Station
from zhcached.residency.resident.stations import Stations, line_of
from zhcached.residency.resident.stopped import Letting, holder_of, is_meant
from zhcached.store.store import Store

MAX_SEATS_PER_UID = 64
PRUNE_S = 3600.0
STOP_S = 10.0

log = structlog.get_logger()


class Residents:
    """All resident pipelines of one daemon.

    Args:
        store: Where the snapshots are.
        config: Limits.
        clock: Time.
        launcher: Starts workers.
        devices: What devices there are.
        arenas: Weights in GPU memory.
        patience: Other waits than the configured ones.
    """

    def __init__(
        self,
        store: Store,
        config: ResidencyConfig,
        clock: Clock,
        launcher: Launcher,
        devices: Devices,
        arenas: ArenaSource,
        patience: Patience | None = None,
    ) -> None:
        chosen = patience or Patience(keep_alive=config.keep_alive, call=config.call_timeout)
        self._stations = Stations(store, config, clock, launcher, devices, arenas, chosen)
        self._lock = self._stations.lock
        self._store = store
        self._clock = clock
        self._devices = devices
        self._patience = chosen
        self._allowance = Allowance()
        self._seats: Counter[int] = Counter()
        self._leases: Counter[tuple[str, str, int]] = Counter()
        self._pruned = clock.monotonic()

    # --- clients ---------------------------------------------------------------------------------

    def open(
        self, request: residency.ResidentRequest, uid: int, pid: int, listener: Listener
    ) -> Seat:
        """Gives a client a seat; ``listener`` is told ``Progress``, then ``Opened`` or ``Failed``.

        Raises:
            UsageError: The request cannot be meant.
            NotFound: The store has no such snapshot.
            Busy: The user has too many open.
            VersionMismatch: The client speaks another protocol.
            WorkerDied: Its worker died so often that it is not tried again yet.
            ZhcacheError: The store cannot give the snapshot.
        """
        kinds.check_version(request)
        repo = parse_repo(request.repo)
        revision = parse_revision(request.revision) if request.revision is not None else None
        commit = self._store.resolve(repo, revision).commit
        device = self._devices.resolve(
            request.device, None, prefer=self._warm_on(str(repo), commit)
        )
        kind = kinds.kind_of(request, commit, device)
        # Of no process that outlives us: after a restart of the daemon the connection is gone.
        lease = self._store.leases.grant(repo, commit, uid=uid, pid=pid, pid_start=-1)
        try:
            return self._take_seat(kind, Guest(uid, lease, listener))
        except BaseException:
            self._store.leases.end(lease)
            raise

    def _warm_on(self, repo: str, commit: str) -> set[str]:
        with self._lock:
            return {
                station.kind.device
                for station in self._stations.all()
                if (station.kind.repo, station.kind.commit) == (repo, commit) and station.loaded
            }

    def _take_seat(self, kind: Kind, guest: Guest) -> Seat:
        with self._lock:
            if self._stations.is_closed:
                raise DaemonUnreachable("the daemon is being stopped")
            if self._seats[guest.uid] >= MAX_SEATS_PER_UID:
                raise Busy(
                    "uid {uid} has {limit} resident pipelines open",
                    hint="close some of them with zhcache.release(pipe)",
                    uid=guest.uid,
                    limit=MAX_SEATS_PER_UID,
                )
            station = self._stations.of(kind, guest.uid)
            station.falls.check_rested()
            self._seats[guest.uid] += 1
            self._leases[kind.repo, kind.commit, guest.uid] += 1
            station.join(guest)
            self._stations.tend(station)
        return Seat(
            station,
            guest,
            lock=self._lock,
            allowance=self._allowance,
            tend=self._stations.tend,
            on_leave=self._left_seat,
        )

    def _left_seat(self, station: Station, guest: Guest) -> None:
        kind = station.kind
        with self._lock:
            self._seats[guest.uid] -= 1
            self._leases[kind.repo, kind.commit, guest.uid] -= 1
            if station.has_expired:
                station.end()
            self._stations.drop_if_empty(station)
        self._store.leases.end(guest.lease)

    # --- keeping warm, letting go ----------------------------------------------------------------

    def warm(
        self,
        request: residency.ResidentRequest,
        uid: int,
        *,
        until: float | None,
        on_progress: Callable[[residency.Progress], None],
        cancelled: threading.Event,
    ) -> Resident:
        """Has a worker hold a pipeline until a time, and waits until it does.

        Args:
            request: What is to be warm.
            uid: Who asks.
            until: Seconds since the epoch; None is until it is stopped.
            on_progress: Told how far it is.
            cancelled: Ends the waiting.

        Raises:
            Cancelled: ``cancelled`` was set.
            ZhcacheError: As ``open``, or what kept the worker from loading.
        """
        ear = Ear()
        seat = self.open(request, uid, os.getpid(), ear)
        try:
            while not ear.is_ready(on_progress):
                if cancelled.is_set():
                    raise Cancelled("warming was cancelled")
            with self._lock:
                seat.station.kept.want(uid, until)
        finally:
            seat.leave()
        with self._lock:
            return line_of(seat.station)

    def stop(
        self,
        repo: str,
        *,
        uid: int,
        may_all: bool = False,
        variant: str | None = None,
        device: str | None = None,
        force: bool = False,
    ) -> Letting:
        """Ends workers of a repository: those nobody uses, with ``force`` the caller's own too.

        Args:
            repo: The repository.
            uid: Who asks.
            may_all: May end what others use or keep.
            variant: Only this one.
            device: Only on this one, as ``Devices.resolve`` gives it.
            force: Even while clients have it open; their calls end.

        Raises:
            NotFound: No worker of it is there.
        """
        done = Letting()
        ended: list[Station] = []
        with self._lock:
            found = [s for s in self._stations.all() if is_meant(s, repo, variant, device)]
            if not found:
                raise NotFound("no resident pipeline of {repo} is here", repo=repo)
            for station in found:
                holder = holder_of(station, uid, may_all=may_all, force=force)
                if holder is not None:
                    if not station.guests:
                        station.kept.withdraw(uid)
                    done.holders.append(holder)
                    continue
                done.freed.append((station.kind.device, station.bytes))
                self._end(station, Cancelled("the resident pipeline was stopped"))
                ended.append(station)
            is_over = self._lock.wait_for(lambda: not any(s.is_ending for s in ended), STOP_S)
        if not is_over:
            log.warning("resident.slow_to_stop", repo=repo)
        return done

    def _end(self, station: Station, error: ZhcacheError) -> None:
        station.kept.clear()
        station.drop_all(error)
        if station.is_tended:
            station.end()

    def expire(self) -> None:
        """Ends the workers whose time is over; called now and then."""
        with self._lock:
            for station in self._stations.all():
                if station.has_expired and station.is_tended and not station.is_ending:
                    log.info("resident.expired", station=str(station.kind))
                    station.end()
                self._stations.drop_if_empty(station)
            # What waits for room looks again: idle time makes workers free to go.
            self._lock.notify_all()
            is_due = self._clock.monotonic() - self._pruned >= PRUNE_S
            if is_due:
                self._pruned = self._clock.monotonic()
        if is_due:
            self._stations.artifacts.prune(self._is_held)

    def _is_held(self, repo: str, commit: str) -> bool:
        return self._store.layout.manifest(parse_repo(repo), commit).exists()

    def close(self) -> None:
        """Ends all workers and conversations; the daemon stops."""
        error = DaemonUnreachable("the daemon is being stopped", hint="call again once it is back")
        with self._lock:
            self._stations.is_closed = True
            for station in self._stations.all():
                self._end(station, error)
                for guest in list(station.guests):
                    failed = residency.Failed(error=to_info(error))
                    guest.listener.tell(failed, is_last=True)
        self._stations.join(STOP_S)

    def make_room(self, device: str, need_bytes: int) -> None:
        """Has idle workers on a device ended until ``need_bytes`` go; does not wait for it."""
        with self._lock:
            self._stations.let_go(device, need_bytes)

    # --- what there is ---------------------------------------------------------------------------

    def listing(self) -> list[Resident]:
        """Returns a line for each worker there is or that comes."""
        with self._lock:
            return [line_of(station) for station in self._stations.all() if station.is_tended]

    def leases(self) -> Counter[tuple[str, str, int]]:
        """Returns how many of the store's leases are seats here, by repository, commit and uid."""
        with self._lock:
            return +self._leases

    def bytes_on(self, device: str) -> int:
        """Returns what the workers on a device take there."""
        with self._lock:
            return sum(s.bytes for s in self._stations.all() if s.kind.device == device)
