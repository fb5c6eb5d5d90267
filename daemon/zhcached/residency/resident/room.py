"""Room for workers: who goes for one that comes, and who is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import structlog

from zhcache.errors import NoSpace
from zhcache.protocol import residency
from zhcached.residency.resident import admission
from zhcached.residency.resident.claims import Claim, Claims, Standing
from zhcached.residency.resident.context import ArenaSource
from zhcached.residency.resident.instance import Instance
from zhcached.residency.resident.planned import account_of
from zhcached.residency.resident.tenants import processes

WAIT_S = 5.0

log = structlog.get_logger()


class Room:
    """The room that workers share.

    Args:
        lock: Guards the instances.
        instances: Returns all of them.
        claims: Reckons what workers have to have.
        arenas: Weights in memory that is shared.
        workers: How many there may be.
    """

    def __init__(
        self,
        lock: threading.Condition,
        instances: Callable[[], Collection[Instance]],
        claims: Claims,
        arenas: ArenaSource,
        workers: int,
    ) -> None:
        self._lock = lock
        self._instances = instances
        self._claims = claims
        self._arenas = arenas
        self._workers = workers

    def admit(self, instance: Instance) -> bool:
        """Waits for room for the instance's worker; tells whether one is still wanted.

        Raises:
            NoSpace: It would not fit if nothing else were there.
            ZhcacheError: The snapshot is gone, or is no pipeline.
        """
        kind = instance.kind
        whole = None if kind.is_planned else self._claims.whole(kind)
        weights = self._claims.weigh(kind) if kind.is_planned else None
        while True:
            others = self._others(instance)
            plan, account = None, whole
            if weights is not None:
                plan = instance.plan or self._claims.plan(kind, weights, others)
                account = None if plan is None else account_of(plan)
            claims = [] if account is None else list(self._claims.all(kind, account, others))
            with self._lock:
                if not instance.line.is_wanted or instance.is_ending:
                    return False
                if account is None:
                    self._tell_waiting(instance, self._holders(instance))
                    self._wait(instance)
                    continue
                decided, claim = self._decided(instance, claims)
                if isinstance(decided, admission.Admit):
                    instance.place(account, plan)
                    return True
                spared = decided.bytes if isinstance(decided, admission.LetGo) else 0
                if not spared:
                    self._wait(instance)
            if spared and claim is not None:
                self._arenas.let_go(claim.device, spared)

    def _others(self, instance: Instance) -> list[Standing]:
        with self._lock:
            return [
                Standing(
                    one.number,
                    one.borne,
                    is_idle=one.may_go or one.is_ending,
                    is_loaded=one.loaded is not None,
                )
                for one in self._instances()
                if one.is_placed and one is not instance
            ]

    # --- who goes for it; under the lock ---------------------------------------------------------

    def _decided(
        self, instance: Instance, claims: Collection[Claim]
    ) -> tuple[admission.Admit | admission.LetGo | admission.Wait, Claim | None]:
        """Returns what the first claim comes to that has no room."""
        for claim in claims:
            decided = self._decide(instance, claim)
            if not isinstance(decided, admission.Admit):
                return decided, claim
        return admission.Admit(), None

    def _decide(
        self, instance: Instance, claim: Claim
    ) -> admission.Admit | admission.LetGo | admission.Wait:
        placed = {s.number: s for s in self._instances() if s.is_placed and s is not instance}
        siblings = [s for s in placed.values() if s.line is instance.line]
        # Workers of one line on one device have the weights together.
        is_shared = any(claim.device in s.account.devices for s in siblings)
        room = claim.room
        if claim.there is not None:
            room += sum(s.bytes_on(claim.device) for n, s in placed.items() if n in claim.there)
        decided = admission.plan(
            [_place(other, is_sibling=other in siblings) for other in placed.values()],
            device=claim.device,
            need_bytes=claim.need - (claim.shared if is_shared else 0),
            room_bytes=room,
            workers=self._workers,
            spare_bytes=claim.spare,
        )
        if isinstance(decided, admission.LetGo):
            for number in decided.names:
                if not placed[number].is_ending:
                    log.info("resident.let_go", instance=str(placed[number].kind))
                placed[number].end()
        if isinstance(decided, admission.Wait):
            _check_others(instance, claim.device, decided.holders, siblings)
            self._tell_waiting(instance, decided.holders)
        return decided

    def _wait(self, instance: Instance) -> None:
        """Waits until others come or go, or some time: not everything that is told is of room."""

        def state() -> object:
            others = [(s.number, s.is_placed, s.may_go) for s in self._instances()]
            return instance.line.is_wanted, instance.is_ending, others

        before = state()
        self._lock.wait_for(lambda: state() != before, WAIT_S)

    def _holders(self, instance: Instance) -> list[str]:
        others = [s for s in self._instances() if s.is_placed and s is not instance]
        wanted = set(instance.kind.devices)
        return sorted({holder(s) for s in others if wanted & set(s.account.devices)})

    def _tell_waiting(self, instance: Instance, holders: Collection[str]) -> None:
        note = "waits for room: " + ("; ".join([*holders][:3]) or "others hold it")
        instance.line.tell_waiting(residency.Progress(note=note, holders=list(holders)))


def holder(instance: Instance) -> str:
    """Returns an instance and who has it, in words."""
    users = processes(instance.line.tenants)
    return f"{instance.kind} of {', '.join(users) or f'uid {instance.line.uid}'}"


def _check_others(
    instance: Instance, device: str, holders: Collection[str], siblings: Collection[Instance]
) -> None:
    """Refuses to wait for room that nobody has but the line's own workers."""
    if holders and set(holders) <= {holder(one) for one in siblings}:
        raise NoSpace(
            "there is no room on {device} for another worker of {repo} beside its own",
            hint="name fewer devices, or raise workers, ram or vram in [residency] of config.toml",
            device=device,
            repo=instance.kind.repo,
        )


def _place(instance: Instance, *, is_sibling: bool) -> admission.Place:
    return admission.Place(
        name=instance.number,
        takes={device: instance.bytes_on(device) for device in instance.account.devices},
        holder=holder(instance),
        used=instance.line.used,
        # None makes room for another of its own line: that would go round for ever.
        is_idle=instance.may_go and not is_sibling,
        is_kept=instance.line.is_kept,
        is_ending=instance.is_ending,
    )
