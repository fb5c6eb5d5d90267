"""Arenas in the front: who gets which memory, when it is filled, when it goes.

The front holds weights by descriptor alone. What is asked for and not there is filled by a worker,
once for all who ask meanwhile; what there is no room for waits until somebody lets go of enough.
Thread-safe: one lock, for bookkeeping and its records; workers and NVML are waited for outside it.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import structlog

from zhcache.errors import Cancelled, UsageError
from zhcache.protocol import frames
from zhcache.protocol.messages import Resident
from zhcache.protocol.names import parse_repo
from zhcache.protocol.residency import Arena, Progress
from zhcached.clock import Clock
from zhcached.config import ResidencyConfig
from zhcached.residency.arena import letting
from zhcached.residency.arena.custody import Custody
from zhcached.residency.arena.fill import STALL_S
from zhcached.residency.arena.held import FOREVER, Use
from zhcached.residency.arena.shelf import Shelf
from zhcached.residency.arena.supply import Supply
from zhcached.residency.arena.wanted import Signal, wanted_of
from zhcached.residency.devices import CPU, Devices
from zhcached.residency.launch.launch import Launcher
from zhcached.store.store import Store

TICK_S = 0.25
HEARTBEAT_S = 5.0
log = structlog.get_logger()


class Arenas:
    """All arenas of one daemon.

    Args:
        store: Where the snapshots are.
        config: Limits and who may share.
        clock: Time.
        launcher: Starts fill workers.
        devices: What devices there are and how much they hold.
        stall_s: How long a fill worker may be silent.

    Attributes:
        elsewhere: Returns what others of this daemon have on a device, in bytes.
        make_room: Asks them to let so many bytes on a device go, as far as nobody uses them.
        holder: Says who has what is leased by a name of theirs; None where it is nobody's.
    """

    def __init__(
        self,
        store: Store,
        config: ResidencyConfig,
        clock: Clock,
        launcher: Launcher,
        devices: Devices,
        stall_s: float = STALL_S,
    ) -> None:
        self.elsewhere: Callable[[str], int] = lambda _: 0
        self.make_room: Callable[[str, int], None] = lambda _, __: None
        self.holder: Callable[[str], str | None] = lambda _: None
        self._store = store
        self._config = config
        self._clock = clock
        self._devices = devices
        self._changed = threading.Condition()
        custody = Custody(store.layout.root / "residency")
        self._shelf = Shelf(custody, clock, config.keep_alive, self._holder)
        self._launcher = launcher
        self._supply = Supply(self._shelf, launcher, clock, self._changed, stall_s)

    def take_over(self, inherited: Iterable[tuple[str, int]]) -> None:
        """Takes back the arenas of an earlier daemon; called once, before anything else.

        Args:
            inherited: What the service manager kept; now this object's.
        """
        with self._changed:
            count = self._shelf.take_over(inherited)
        if count:
            log.info("arenas.taken_over", arenas=count)
        self.expire()

    # --- attaching -------------------------------------------------------------------------------

    def attach(
        self,
        lease_id: str,
        repo: str,
        commit: str,
        uid: int,
        device: str,
        *,
        damaged: Sequence[str] = (),
        components: Sequence[str] | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        cancelled: Signal | None = None,
    ) -> list[tuple[Arena, int]]:
        """Returns the arenas of a snapshot on a device, filled first if need be. Blocks.

        The descriptors stay this object's and are good until ``released``.

        Args:
            lease_id: Who has them from now on.
            repo: The repository.
            commit: The snapshot, which the caller keeps from being removed meanwhile.
            uid: Whose lease it is.
            device: ``cpu`` or a GPU's UUID.
            damaged: Keys of arenas that the lease has and whose checksum does not hold.
            components: Those that are wanted; None is all with weights.
            on_progress: Told what is waited for, at least every few seconds; may raise.
            cancelled: Looked at every moment; ends the wait.

        Raises:
            UsageError: No such device or component, or no pipeline.
            NoSpace: It would not fit if nothing else were there.
            IntegrityError: Filled because of damage and damaged again.
            WorkerDied: The fill's worker ended early.
            Cancelled: As asked.
            ZhcacheError: What the worker reported.
        """
        use = Use(uid, repo, commit)
        wanted = wanted_of(
            self._store, self._config, self._devices, lease_id, use, device, components
        )
        with self._changed:
            self._supply.mend(wanted, damaged)
        told: tuple[Progress | None, float] = (None, 0.0)
        try:
            while True:
                # Not under our lock: who answers has one of its own.
                if wanted.lacking:
                    self.make_room(wanted.device, wanted.lacking)
                    wanted.lacking = 0
                wanted.elsewhere = self.elsewhere(wanted.device)
                with self._changed:
                    progress = self._supply.advance(wanted)
                    if progress is None:
                        self._shelf.note()
                        found = [self._shelf[key] for key in wanted.components]
                        return [(held.arena, held.fd) for held in found]
                    self._changed.wait(TICK_S)
                if told[0] is None:
                    # Who waits for room need not wait for a worker's imports after that.
                    self._launcher.prepare()
                now = self._clock.monotonic()
                if progress != told[0] or now - told[1] >= HEARTBEAT_S:
                    on_progress(progress)
                    told = (progress, now)
                if cancelled is not None and cancelled.is_set():
                    raise Cancelled("nobody waits for the weights any more")  # noqa: TRY301
        except BaseException:
            with self._changed:
                self._supply.give_up(wanted)
            raise

    def copies(self, lease_id: str, keys: Iterable[str]) -> list[int]:
        """Returns descriptors of the caller's own, for a lease that another thread may end.

        Raises:
            Cancelled: The lease ended meanwhile.
        """
        fds: list[int] = []
        with self._changed:
            for key in keys:
                if key not in self._shelf or lease_id not in self._shelf[key].leases:
                    frames.close_all(fds)
                    raise Cancelled("the lease ended meanwhile", hint="load the pipeline again")
                fds.append(os.dup(self._shelf[key].fd))
        return fds

    # --- how long it stays -----------------------------------------------------------------------

    def keep(
        self,
        repo: str,
        commit: str,
        device: str,
        uid: int,
        until: float | None,
        *,
        on_progress: Callable[[Progress], None] = lambda _: None,
        cancelled: Signal | None = None,
    ) -> int:
        """Keeps the arenas of a snapshot warm, filled first if need be; returns their bytes.

        Args:
            repo: The repository.
            commit: The snapshot.
            device: ``cpu`` or a GPU's UUID.
            uid: For whom.
            until: Seconds since the epoch; None is until it is stopped, or room is needed.
            on_progress: As in ``attach``.
            cancelled: As in ``attach``.

        Raises:
            UsageError: Nothing is shared there, so that nothing can be kept for others.
            ZhcacheError: As ``attach``.
        """
        if device != CPU and self._config.share == "off":
            raise UsageError(
                "weights on {device} are not shared here, so none can be kept warm",
                hint='set residency.share = "uid" in config.toml, or use mode="resident"',
                device=device,
            )
        now = self._clock.monotonic()
        ends = FOREVER if until is None else now + until - self._clock.wall()
        # A lease of our own, so that the files stay while the worker reads them.
        lease = self._store.leases.grant(parse_repo(repo), commit, uid=uid, pid=os.getpid())
        try:
            found = self.attach(
                lease, repo, commit, uid, device, on_progress=on_progress, cancelled=cancelled
            )
            with self._changed:
                for arena, _ in found:
                    if arena.key not in self._shelf:
                        raise Cancelled("it was stopped meanwhile", hint="warm it again")
                    held = self._shelf[arena.key]
                    held.keep_until = max(held.keep_until, ends)
        finally:
            self._store.leases.end(lease)
            self.released(lease)
        with self._changed:
            self._shelf.only_keep({arena.key for arena, _ in found}, uid)
        return sum(arena.bytes for arena, _ in found)

    def released(self, lease_id: str) -> None:
        """Takes notice that a lease is over; one that has nothing here is none to end."""
        with self._changed:
            self._supply.released(lease_id)

    def expire(self) -> None:
        """Frees what is over its time. Called every few seconds.

        Leases from before this daemon end here: nobody else watches their processes.
        """
        self._store.leases.prune_dead()
        with self._changed:
            for lease in {lease for held in self._shelf for lease in held.restored}:
                if self._store.leases.find(lease) is None:
                    self._supply.released(lease)
            if self._shelf.expire():
                self._changed.notify_all()

    def stop(
        self,
        repo: str,
        device: str | None,
        uid_may: Callable[[int], bool],
        *,
        force: bool = False,
        has: Callable[[str], bool] = lambda _: True,
    ) -> tuple[int, list[str]]:
        """Lets the arenas of a repository go; returns bytes and devices.

        Args:
            repo: The repository.
            device: Only there; None is everywhere.
            uid_may: Tells whether the caller may end what is this user's.
            force: Takes leased ones from the shelf too: who has them goes on, nobody gets them
                any more, and their memory is freed with their last user.
            has: Tells of a snapshot of it, by its own commit, whether it is meant.

        Raises:
            Busy: Somebody has them; named. What nobody had is gone all the same.
            NotPermitted: They are another user's. Nothing of his went.
        """
        with self._changed:
            try:
                return letting.stop(self._shelf, repo, device, uid_may, force=force, has=has)
            finally:
                self._changed.notify_all()

    def close(self) -> None:
        """Ends the workers, at the daemon's end. What is filled stays for the next daemon."""
        with self._changed:
            self._supply.close()

    # --- what there is ---------------------------------------------------------------------------

    def listing(self) -> list[Resident]:
        """Returns a line for each snapshot, device and user."""
        with self._changed:
            return letting.listing(self._shelf, self._clock)

    def leases(self) -> Counter[tuple[str, str, int]]:
        """Returns how many of the store's leases have arenas, by repository, commit and uid."""
        with self._changed:
            uses = {lease: use for held in self._shelf for lease, use in held.leases.items()}
        # A resident worker has arenas by a name of its own, which is no lease of the store's.
        there = [use for lease, use in uses.items() if self._store.leases.find(lease) is not None]
        return Counter((use.repo, use.commit, use.uid) for use in there)

    def bytes_on(self, device: str) -> int:
        """Returns what arenas have on a device, those that come counted in."""
        with self._changed:
            return self._supply.bytes_on(device)

    def bytes_of(self, repo: str, commit: str, uid: int, device: str) -> int:
        """Returns what a snapshot's arenas take on a device that are a user's."""
        with self._changed:
            found = [h for h in self._shelf if h.uid == uid and (repo, commit) in h.snapshots]
            return sum(h.arena.bytes for h in found if h.arena.device == device)

    def idle_on(self, device: str) -> int:
        """Returns what those arenas take on a device that nobody leases."""
        with self._changed:
            idle = [h.arena for h in self._shelf if not h.leases]
            return sum(arena.bytes for arena in idle if arena.device == device)

    def let_go(self, device: str, need_bytes: int) -> bool:
        """Frees so many bytes on a device, if that much is leased by nobody; tells whether it is.

        What goes first is as where arenas make room for another.
        """
        with self._changed:
            if gone := self._supply.let_go(device, need_bytes):
                self._changed.notify_all()
            return gone

    def _holder(self, lease: str) -> str:
        # Under our lock: neither the store nor the residents ask here under theirs.
        return self._store.leases.holder(lease) or self.holder(lease) or f"lease {lease}"
