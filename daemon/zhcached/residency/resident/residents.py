"""Resident pipelines: who has which, and which of them go.

A client opens a kind of pipeline, on one device or several, and gets a session at its line; equal
requests share one line and its workers, whoever asks. Workers are launched when they are first
wanted, ended when nobody has used the line for the time of ``keep_alive``, and earlier for another
where room is needed and they are idle. Thread-safe.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable

import structlog

from zhcache.errors import Cancelled, DaemonUnreachable, NotFound, ZhcacheError
from zhcache.protocol import residency
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import Resident
from zhcache.protocol.names import parse_repo
from zhcached.clock import Clock
from zhcached.config import ChineseConfig, ResidencyConfig
from zhcached.residency.devices import Devices
from zhcached.residency.launch.launch import Launcher
from zhcached.residency.resident import kinds
from zhcached.residency.resident.asked import Asking
from zhcached.residency.resident.calls import Allowance, Listener
from zhcached.residency.resident.context import ArenaSource
from zhcached.residency.resident.instance import Instance
from zhcached.residency.resident.instances import Instances, line_of
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.line import Line
from zhcached.residency.resident.listener import BlockingListener
from zhcached.residency.resident.planned import Placements
from zhcached.residency.resident.room import holder
from zhcached.residency.resident.seats import Seats
from zhcached.residency.resident.sessions import Session
from zhcached.residency.resident.stopped import Letting, is_meant
from zhcached.residency.resident.tenants import Tenant
from zhcached.residency.resident.timeouts import Timeouts
from zhcached.store.meant import meant
from zhcached.store.store import Store

PRUNE_S = 3600.0
STOP_S = 10.0

log = structlog.get_logger()


class Residents:
    """All resident pipelines of one daemon.

    Attributes:
        seen: What calls took.

    Args:
        store: Where the snapshots are.
        config: Limits.
        clock: Time.
        launcher: Starts workers.
        devices: What devices there are.
        arenas: Weights in GPU memory.
        placements: Says where components go that have several devices.
        timeouts: Other waits than the configured ones.
        chinese: What is configured of what reads Chinese prompts.
    """

    def __init__(
        self,
        store: Store,
        config: ResidencyConfig,
        clock: Clock,
        launcher: Launcher,
        devices: Devices,
        arenas: ArenaSource,
        placements: Placements,
        timeouts: Timeouts | None = None,
        chinese: ChineseConfig | None = None,
    ) -> None:
        chosen = timeouts or Timeouts(keep_alive=config.keep_alive, call=config.call_timeout)
        self._instances = Instances(
            store, config, clock, launcher, devices, arenas, chosen, placements
        )
        self.seen = self._instances.seen
        self._lock = self._instances.lock
        self._store = store
        self._clock = clock
        self._devices = devices
        self._timeouts = chosen
        self._asking = Asking(store, devices, placements, chinese or ChineseConfig())
        self._allowance = Allowance()
        self._seats = Seats()
        self._pruned = clock.monotonic()

    # --- clients ---------------------------------------------------------------------------------

    def open(
        self,
        request: residency.ResidentRequest,
        uid: int,
        pid: int,
        listener: Listener,
        *,
        is_wish: bool = False,
    ) -> Session:
        """Gives a client a session; ``listener`` hears ``Progress``, then ``Opened`` or ``Failed``.

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
        # First of all: what is not held is fetched next, which a device that is absent makes vain.
        for device in request.devices or [request.device]:
            self._devices.resolve(device)
        with self._lock:
            warm = self._instances.loaded(str(repo))
        if not warm:
            # Its imports take seconds, which go by beside the fetching and the waiting for room.
            self._instances.launcher.prepare()
        held = meant(self._store, request.repo, request.revision, request.variant)
        asked = self._asking.kinds(request, held, warm)
        # Of no process that outlives us: after a restart of the daemon the connection is gone.
        lease = self._store.leases.grant(repo, held.commit, uid=uid, pid=pid, pid_start=-1)
        try:
            return self._take_session(asked, Tenant(uid, pid, lease, listener, is_wish))
        except BaseException:
            self._store.leases.end(lease)
            raise

    def _take_session(self, asked: tuple[Kind, ...], tenant: Tenant) -> Session:
        with self._lock:
            if self._instances.is_closed:
                raise DaemonUnreachable("the daemon is being stopped")
            self._seats.check(tenant.uid)
            line = self._instances.of(asked, tenant.uid)
            line.check_rested()
            self._seats.take(line.kind, tenant.uid)
            line.join(tenant)
            self._instances.tend(line)
        return Session(
            line,
            tenant,
            lock=self._lock,
            allowance=self._allowance,
            tend=self._instances.tend,
            on_leave=self._left_session,
        )

    def _left_session(self, line: Line, tenant: Tenant) -> None:
        with self._lock:
            self._seats.give_back(line.kind, tenant.uid)
            if line.has_expired:
                for instance in line.instances:
                    instance.end()
            self._instances.drop_if_empty(line)
            # It may be idle now, and somebody wait for its room.
            self._lock.notify_all()
        self._store.leases.end(tenant.lease)

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
        listener = BlockingListener()
        session = self.open(request, uid, os.getpid(), listener, is_wish=True)
        try:
            while not listener.is_ready(on_progress):
                if cancelled.is_set():
                    raise Cancelled("warming was cancelled")
            with self._lock:
                session.line.kept.want(uid, until)
        finally:
            session.leave()
        with self._lock:
            return line_of(session.line.instances[0])

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
        ended: list[Instance] = []
        with self._lock:
            found = [s for s in self._instances.lines() if is_meant(s, repo, variant, device)]
            if not found:
                raise NotFound("no resident pipeline of {repo} is here", repo=repo)
            for line in found:
                if done.is_denied(line, uid, may_all=may_all, force=force):
                    continue
                done.freed += [
                    (device, one.bytes_on(device))
                    for one in line.instances
                    if one.is_tended
                    for device in one.devices
                ]
                self._end(line, Cancelled("the resident pipeline was stopped"))
                ended += line.instances
            is_over = self._lock.wait_for(lambda: not any(s.is_ending for s in ended), STOP_S)
        if not is_over:
            log.warning("resident.slow_to_stop", repo=repo)
        return done

    def _end(self, line: Line, error: ZhcacheError) -> None:
        line.kept.clear()
        line.drop_all(error)
        for instance in line.instances:
            if instance.is_tended:
                instance.end()

    def expire(self) -> None:
        """Ends the workers whose time is over; called now and then."""
        with self._lock:
            for line in self._instances.lines():
                for instance in line.instances:
                    if line.has_expired and instance.is_tended and not instance.is_ending:
                        log.info("resident.expired", instance=str(instance.kind))
                        instance.end()
                self._instances.drop_if_empty(line)
            # What waits for room looks again: idle time makes workers free to go.
            self._lock.notify_all()
            is_due = self._clock.monotonic() - self._pruned >= PRUNE_S
            if is_due:
                self._pruned = self._clock.monotonic()
        if is_due:
            self._instances.artifacts.prune(self._is_held)
            self.seen.prune(self._is_held)
        self.seen.save()

    def _is_held(self, repo: str, commit: str) -> bool:
        return self._store.layout.manifest(parse_repo(repo), commit).exists()

    def close(self) -> None:
        """Ends all workers and conversations; the daemon stops."""
        error = DaemonUnreachable("the daemon is being stopped", hint="call again once it is back")
        with self._lock:
            self._instances.is_closed = True
            for line in self._instances.lines():
                self._end(line, error)
                for tenant in list(line.tenants):
                    failed = residency.Failed(error=to_info(error))
                    tenant.listener.tell(failed, is_last=True)
        self._instances.join(STOP_S)
        self.seen.save()

    def make_room(self, device: str, need_bytes: int) -> None:
        """Has idle workers on a device ended until ``need_bytes`` go; does not wait for it."""
        with self._lock:
            self._instances.let_go(device, need_bytes)

    # --- what there is ---------------------------------------------------------------------------

    def listing(self) -> list[Resident]:
        """Returns a line for each worker there is or that comes, or that clients may call back.

        A worker that made room leaves its clients: they have their leases, and it comes back.
        """
        with self._lock:
            shown = [s for s in self._instances.all() if s.is_tended or s.line.tenants]
            return [line_of(instance) for instance in shown]

    def leases(self) -> Counter[tuple[str, str, int]]:
        """Returns how many of the store's leases are here, by repository, commit and uid."""
        with self._lock:
            return self._seats.leases()

    def holder(self, lease: str) -> str | None:
        """Returns whose worker leases arenas by that name, in words; None if no worker does."""
        with self._lock:
            found = (s for s in self._instances.all() if lease.startswith(s.arenas_of))
            return next(map(holder, found), None)

    def bytes_on(self, device: str) -> int:
        """Returns what the workers on a device take there."""
        with self._lock:
            return sum(s.bytes_on(device) for s in self._instances.all())

    def beside_on(self, device: str) -> int:
        """Returns what the workers on a device take there that no arena holds."""
        with self._lock:
            return sum(s.account.beside.get(device, 0) for s in self._instances.all())
