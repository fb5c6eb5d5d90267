"""What a worker has to have of each device before it starts. Asked of the driver, store and arenas.

Without the lock of ``Residents``: all of them take their time, and arenas ask there in turn. What
is under the lock comes as ``Standing``, which was copied before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from zhcache.errors import NoSpace
from zhcache.protocol.names import parse_repo
from zhcache.protocol.placement import Placed, WeightsList
from zhcached.config import ResidencyConfig
from zhcached.residency.arena.contents import contents
from zhcached.residency.devices import CPU, Devices
from zhcached.residency.prompts.known import known
from zhcached.residency.resident.context import ArenaSource
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.planned import GPU_CONTEXT, Account, Held, Placements
from zhcached.store.store import Store


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be had of a device.

    Attributes:
        device: The device.
        need: Bytes of it.
        shared: How many of them workers of one line have together.
        room: What all workers may take there; for memory that is free now, just that.
        spare: What arenas would give up there, which ``room`` is without.
        there: Whose memory ``room`` is without as well, by number; None: it is of all memory.
    """

    device: str
    need: int
    shared: int
    room: int
    spare: int = 0
    there: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Another worker that has its place.

    Attributes:
        number: Its instance's.
        account: What it takes.
        is_idle: It would go for who comes.
        is_loaded: It has taken what it takes.
    """

    number: int
    account: Account
    is_idle: bool
    is_loaded: bool


class Claims:
    """Reckons what workers have to have.

    Args:
        store: Where the snapshots are.
        config: Limits.
        devices: What devices there are.
        arenas: Weights in memory that is shared.
        placements: Says where components go.
    """

    def __init__(
        self,
        store: Store,
        config: ResidencyConfig,
        devices: Devices,
        arenas: ArenaSource,
        placements: Placements,
    ) -> None:
        self._store = store
        self._config = config
        self._devices = devices
        self._arenas = arenas
        self._placements = placements

    def whole(self, kind: Kind) -> Account:
        """Returns what a worker takes that has everything on each of its devices.

        Raises:
            ZhcacheError: The snapshot is gone, or is no pipeline.
        """
        repo = parse_repo(kind.repo)
        if kind.is_prompts:
            weights = known(self._store, self._store.resolve(repo, kind.commit)).bytes
        else:
            weights = sum(c.bytes for c in contents(self._store, repo, kind.commit))
        beside = {device: 0 if device == CPU else GPU_CONTEXT for device in kind.devices}
        return Account(dict.fromkeys(kind.devices, weights), beside)

    def weigh(self, kind: Kind) -> WeightsList:
        """Returns what is known of the components of a kind that is planned.

        Raises:
            ZhcacheError: The snapshot is gone, or is no pipeline.
        """
        return self._placements.weigh(kind)

    def plan(self, kind: Kind, weights: WeightsList, others: Collection[Standing]) -> Placed | None:
        """Returns where components go; None where others are to be waited for.

        Raises:
            NoSpace: It would not fit without them either.
            UsageError: The placement means nothing for this pipeline or these devices.
        """
        try:
            return self._placements.plan(kind, weights, self._held(others, may_all=False))
        except NoSpace:
            self._placements.plan(kind, weights, self._held(others, may_all=True))
            return None

    def all(self, kind: Kind, account: Account, others: Collection[Standing]) -> Iterator[Claim]:
        """Yields what there has to be room for.

        Raises:
            NoSpace: There would be none if no other worker were there.
            UsageError: A device is gone.
        """
        for device in account.devices:
            need, shared = account.on(device), account.weights.get(device, 0)
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
            # On a GPU our own weights are arenas: whoever else has some there is waited for when
            # they are asked for.
            taken = self._arenas.bytes_on(CPU) if device == CPU else 0
            spare = self._arenas.idle_on(CPU) if device == CPU else 0
            yield Claim(device, need, shared, capacity - taken, spare)
        if account.takes:
            yield from self._now(kind, account, others)

    def _now(self, kind: Kind, account: Account, others: Collection[Standing]) -> Iterator[Claim]:
        """Yields what has to be free on each GPU before a plan is carried out."""
        there = frozenset(one.number for one in others if one.is_loaded)
        free = self._placements.free()
        for device, most in account.takes.items():
            # Weights that an earlier worker left are used again.
            had = self._arenas.bytes_of(kind.repo, kind.commit, os.geteuid(), device)
            need = most - min(had, account.weights.get(device, 0))
            possible = free[device] + self._there(device, others)
            if need > possible:
                raise NoSpace(
                    "{repo} takes {need} bytes on {device}, of which other programs leave {room}",
                    hint="see nvidia-smi; or release the pipeline and load it again",
                    repo=kind.repo,
                    need=need,
                    device=device,
                    room=possible,
                )
            spare = max(self._arenas.idle_on(device) - had, 0)
            yield Claim(device, need, 0, free[device], spare, there)

    def _held(self, others: Collection[Standing], *, may_all: bool) -> Callable[[str], Held]:
        """Returns what tells of a device what is there, and goes: of all, if ``may_all``."""

        def held(device: str) -> Held:
            there = self._there(device, others)
            if may_all:
                return Held(there, there)
            idle = sum(one.account.on(device) for one in others if one.is_idle)
            coming = sum(one.account.on(device) for one in others if not one.is_loaded)
            return Held(there, self._arenas.idle_on(device) + idle, coming)

        return held

    def _there(self, device: str, others: Collection[Standing]) -> int:
        """Returns what arenas and workers have on a device, or will."""
        own = sum(one.account.beside.get(device, 0) for one in others)
        # A worker that has its place may not have asked for its arenas yet.
        shared = sum(one.account.weights.get(device, 0) for one in others)
        return max(self._arenas.bytes_on(device), shared) + own
