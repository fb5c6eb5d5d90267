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

from zhcache.errors import NoSpace
from zhcache.protocol import residency
from zhcache.protocol.messages import Resident
from zhcache.protocol.names import parse_repo
from zhcached.clock import Clock
from zhcached.config import ResidencyConfig
from zhcached.residency.arena.contents import contents
from zhcached.residency.devices import CPU, Devices
from zhcached.residency.launch.launch import Launcher
from zhcached.residency.prompts.known import known
from zhcached.residency.resident import admission
from zhcached.residency.resident.artifacts import Artifacts
from zhcached.residency.resident.context import ArenaSource
from zhcached.residency.resident.instance import Instance
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.line import Line
from zhcached.residency.resident.supervisor import Supervisor
from zhcached.residency.resident.tenants import processes
from zhcached.residency.resident.timeouts import Timeouts
from zhcached.store.store import Store

GPU_CONTEXT = 600 * 2**20
"""Bytes that a CUDA context takes of a device, weights apart."""

WAIT_S = 5.0

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
    ) -> None:
        self.lock = threading.Condition()
        self.launcher = launcher
        self.arenas = arenas
        self.artifacts = Artifacts(store.layout.root / "compile", self._gpu_name)
        self.timeouts = timeouts
        self.is_closed = False
        self._store = store
        self._config = config
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
        idle = [s for s in self.all() if s.is_placed and device in s.kind.devices and s.may_go]
        for instance in sorted(idle, key=lambda s: (not s.is_ending, s.line.is_kept, s.line.used)):
            if need_bytes <= 0:
                return
            need_bytes -= instance.bytes
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
        kind = instance.kind
        weights = self._weights(kind)
        is_cpu = kind.device == CPU
        beside = 0 if is_cpu else GPU_CONTEXT
        capacities = {
            device: self._capacity(kind, device, weights + beside) for device in kind.devices
        }
        while True:
            # Asked without the lock, since arenas ask here in turn. On a GPU our own weights are
            # arenas: whoever else has some there is waited for when they are asked for.
            taken = self.arenas.bytes_on(CPU) if is_cpu else 0
            spare = self.arenas.idle_on(CPU) if is_cpu else 0
            with self.lock:
                if not instance.line.is_wanted or instance.is_ending:
                    return False
                decided: admission.Admit | admission.LetGo | admission.Wait = admission.Admit()
                for device, capacity in capacities.items():
                    room = capacity - taken
                    decided = self._decide(instance, device, weights, beside, room, spare)
                    if not isinstance(decided, admission.Admit):
                        break
                if isinstance(decided, admission.Admit):
                    instance.place(weights, beside)
                    return True
                spared = decided.bytes if isinstance(decided, admission.LetGo) else 0
                if not spared:
                    self.lock.wait(WAIT_S)
            if spared:
                self.arenas.let_go(CPU, spared)

    def _capacity(self, kind: Kind, device: str, need: int) -> int:
        share = self._config.ram if device == CPU else self._config.vram
        capacity = self._devices.capacity(device, share)
        if need > capacity:
            raise NoSpace(
                "{repo} takes {need} bytes on {device}, and {room} may be used there",
                hint="raise residency.ram or residency.vram in config.toml",
                repo=kind.repo,
                need=need,
                device=device,
                room=capacity,
            )
        return capacity

    def _weights(self, kind: Kind) -> int:
        repo = parse_repo(kind.repo)
        if kind.is_prompts:
            return known(self._store, self._store.resolve(repo, kind.commit)).bytes
        return sum(c.bytes for c in contents(self._store, repo, kind.commit))

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

    def _decide(
        self, instance: Instance, device: str, weights: int, beside: int, room: int, spare: int
    ) -> admission.Admit | admission.LetGo | admission.Wait:
        placed = {s.number: s for s in self.all() if s.is_placed and s is not instance}
        siblings = [s for s in placed.values() if s.line is instance.line]
        # Workers of one line on one device have the weights together.
        is_shared = any(device in s.kind.devices for s in siblings)
        decided = admission.plan(
            [_place(other, is_sibling=other in siblings) for other in placed.values()],
            device=device,
            need_bytes=beside if is_shared else weights + beside,
            room_bytes=room,
            workers=self._config.workers,
            spare_bytes=spare,
        )
        if isinstance(decided, admission.LetGo):
            for number in decided.names:
                if not placed[number].is_ending:
                    log.info("resident.let_go", instance=str(placed[number].kind))
                placed[number].end()
        if isinstance(decided, admission.Wait):
            _check_others(instance, decided.holders, siblings)
            note = "waits for room: " + ("; ".join(decided.holders[:3]) or "others hold it")
            instance.line.tell_waiting(residency.Progress(note=note, holders=list(decided.holders)))
        return decided

    def _gpu_name(self, uuid: str) -> str:
        return next((gpu.name for gpu in self._devices.list() if gpu.uuid == uuid), uuid)


def _check_others(
    instance: Instance, holders: Collection[str], siblings: Collection[Instance]
) -> None:
    """Refuses to wait for room that nobody has but the line's own workers."""
    if holders and set(holders) <= {holder(one) for one in siblings}:
        raise NoSpace(
            "there is no room on {device} for another worker of {repo} beside its own",
            hint="name fewer devices, or raise workers, ram or vram in [residency] of config.toml",
            device=instance.kind.device,
            repo=instance.kind.repo,
        )


def _place(instance: Instance, *, is_sibling: bool) -> admission.Place:
    return admission.Place(
        name=instance.number,
        devices=instance.kind.devices,
        bytes=instance.bytes,
        holder=holder(instance),
        used=instance.line.used,
        # None makes room for another of its own line: that would go round for ever.
        is_idle=instance.may_go and not is_sibling,
        is_kept=instance.line.is_kept,
        is_ending=instance.is_ending,
    )


def holder(instance: Instance) -> str:
    """Returns an instance and who has it, in words."""
    users = processes(instance.line.tenants)
    return f"{instance.kind} of {', '.join(users) or f'uid {instance.line.uid}'}"


def line_of(instance: Instance) -> Resident:
    """Returns an instance as it is listed."""
    line, sharing = instance.line, instance.kind.sharing
    shared = f"each image is made by {' and '.join(sharing)} together" if sharing else ""
    return Resident(
        repo=instance.kind.repo,
        variant=instance.kind.variant,
        device=instance.kind.device,
        bytes=instance.bytes,
        leases=len(line.tenants),
        uid=line.uid,
        expires=line.expires(),
        mode="resident",
        commit=instance.kind.commit,
        pid=instance.pid,
        running=int(instance.current is not None),
        queued=len(line.turns),
        role=instance.kind.role,
        note=instance.absence or shared,
    )
