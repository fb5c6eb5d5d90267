"""All resident pipelines of a daemon: a line for each, their instances' supervisors and room.

One lock guards all of them; nothing slow is done under it. Supervisors do what takes time, each in
a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from itertools import count

import structlog

from zhcache.placement.sizes import shown
from zhcache.protocol.messages import Resident
from zhcache.protocol.names import parse_repo
from zhcached.clock import Clock
from zhcached.config import ResidencyConfig
from zhcached.residency.devices import Devices
from zhcached.residency.launch.launch import Launcher
from zhcached.residency.resident.artifacts import Artifacts
from zhcached.residency.resident.claims import Claims
from zhcached.residency.resident.context import ArenaSource
from zhcached.residency.resident.instance import Instance
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.line import Line
from zhcached.residency.resident.planned import Placements, home_of
from zhcached.residency.resident.room import Room
from zhcached.residency.resident.seen import SeenCalls
from zhcached.residency.resident.supervisor import Supervisor
from zhcached.residency.resident.timeouts import Timeouts
from zhcached.store.store import Store

log = structlog.get_logger()


class Instances:
    """The instances, and what their supervisors need.

    Args:
        store: Where the snapshots are.
        config: Limits.
        clock: Time.
        launcher: Starts workers.
        devices: What devices there are.
        arenas: Weights in GPU memory.
        timeouts: How long is waited for what.
        placements: Says where components go that have several devices.
    """

    def __init__(
        self,
        store: Store,
        config: ResidencyConfig,
        clock: Clock,
        launcher: Launcher,
        devices: Devices,
        arenas: ArenaSource,
        timeouts: Timeouts,
        placements: Placements,
    ) -> None:
        self.lock = threading.Condition()
        self.launcher = launcher
        self.arenas = arenas
        self.artifacts = Artifacts(store.layout.root / "compile", self._gpu_name)
        self.weigh = placements.weigh
        self.seen = SeenCalls(store.layout.root / "seen.json", lambda of: devices.capacity(of, 1.0))
        self.timeouts = timeouts
        self.is_closed = False
        self._store = store
        claims = Claims(store, config, devices, arenas, placements)
        self._room = Room(self.lock, self.all, claims, arenas, config.workers)
        self._clock = clock
        self._devices = devices
        self._by_kinds: dict[tuple[Kind, ...], Line] = {}
        self._numbers = count(1)
        self._threads: set[threading.Thread] = set()

    # --- under the lock --------------------------------------------------------------------------

    def lines(self) -> Collection[Line]:
        """Returns the resident pipelines there are."""
        return list(self._by_kinds.values())

    def all(self) -> Collection[Instance]:
        """Returns the instances of all of them."""
        return [instance for line in self._by_kinds.values() for instance in line.instances]

    def loaded(self, repo: str) -> list[Kind]:
        """Returns the kinds of a repository that a worker holds now."""
        return [s.kind for s in self.all() if s.kind.repo == repo and s.loaded is not None]

    def of(self, kinds: tuple[Kind, ...], uid: int) -> Line:
        """Returns the line of some kinds, made for ``uid`` if there is none."""
        if kinds not in self._by_kinds:
            self._by_kinds[kinds] = Line(kinds, self._numbers, uid, self._clock, self.timeouts)
        return self._by_kinds[kinds]

    def tend(self, line: Line) -> None:
        """Sees to it that a line's instances have supervisors, and so workers in time."""
        for instance in line.instances:
            if not instance.is_tended and not instance.is_absent and not self.is_closed:
                self._tend(instance)

    def _tend(self, instance: Instance) -> None:
        instance.begin()
        thread = threading.Thread(
            target=Supervisor(instance, self).run, name=f"resident-{instance.number}", daemon=True
        )
        self._threads = {thread for thread in self._threads if thread.is_alive()} | {thread}
        thread.start()

    def left(self, instance: Instance) -> None:
        """Takes notice that an instance's supervisor ends."""
        instance.left()
        if instance.line.needs_worker:
            # Somebody came between the supervisor's last look and now.
            self.tend(instance.line)
        self.drop_if_empty(instance.line)

    def drop_if_empty(self, line: Line) -> None:
        """Forgets a line that has neither client nor worker, nor a death to remember."""
        if line.is_tended or line.tenants or line.is_busy or line.is_resting:
            return
        if self._by_kinds.get(line.kinds) is line:
            del self._by_kinds[line.kinds]
            for instance in line.instances:
                instance.wakeup.close()

    def let_go(self, device: str, need_bytes: int) -> None:
        """Ends idle workers on a device, the longest unused first, until that many bytes go."""
        idle = [s for s in self.all() if device in s.account.devices and s.may_go]
        for instance in sorted(idle, key=lambda s: (not s.is_ending, s.line.is_kept, s.line.used)):
            if need_bytes <= 0:
                return
            need_bytes -= instance.bytes_on(device)
            if not instance.is_ending:
                log.info("resident.let_go", instance=str(instance.kind))
                instance.end()

    # --- without it ------------------------------------------------------------------------------

    def admit(self, instance: Instance) -> bool:
        """Waits for room for the instance's worker; tells whether one is still wanted.

        Raises:
            NoSpace: It would not fit if nothing else were there.
            ZhcacheError: The snapshot is gone, or is no pipeline.
        """
        return self._room.admit(instance)

    def folder(self, instance: Instance) -> str:
        """Returns where the instance's snapshot lies."""
        repo = parse_repo(instance.kind.repo)
        return str(self._store.view.snapshot_dir(repo, instance.kind.commit))

    def join(self, timeout_s: float) -> None:
        """Waits for the supervisors that were told to end, at most so long in all."""
        until = time.monotonic() + timeout_s
        with self.lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))

    def _gpu_name(self, uuid: str) -> str:
        return next((gpu.name for gpu in self._devices.list() if gpu.uuid == uuid), uuid)


def line_of(instance: Instance) -> Resident:
    """Returns an instance as it is listed."""
    line, kind, plan = instance.line, instance.kind, instance.plan
    note = instance.absence
    if kind.placement == "parallel":
        note = note or f"each image is made by {' and '.join(kind.sharing)} together"
    elif plan is not None:
        shares = [f"{shown(instance.bytes_on(one))} on {one}" for one in instance.devices]
        note = note or f"{plan.placement} ({plan.how}): {', '.join(shares)}"
    return Resident(
        repo=kind.repo,
        variant=kind.variant,
        device=kind.device if plan is None else home_of(plan),
        bytes=instance.bytes,
        leases=len(line.tenants),
        uid=line.uid,
        expires=line.expires(),
        mode="resident",
        commit=kind.commit,
        pid=instance.pid,
        running=int(instance.current is not None),
        queued=len(line.turns),
        role=kind.role,
        note=note,
    )
