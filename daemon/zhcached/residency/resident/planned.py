"""Where the components of a resident pipeline go that has several devices: by the planner.

It is the one of ``zhcache plan`` and of attached pipelines, with what is to be had for a worker
here: what nobody uses counts as free, what comes already does not. Devices are known by UUID, as
everywhere in the daemon; one that has none by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from zhcache.errors import NoSpace, UsageError
from zhcache.placement.devices import CPU, Device, Machine
from zhcache.placement.heard import machine_of, model_of
from zhcache.placement.plan import decide
from zhcache.placement.result import placed
from zhcache.protocol.placement import DeviceList, Placed, WeightsList
from zhcached.residency.resident.kinds import Kind

GPU_CONTEXT = 600 * 2**20
"""Bytes that a CUDA context takes of a device, weights apart."""

Weigh = Callable[[str, str, str | None], WeightsList]
"""Returns what the components take of a repository at a commit, of a variant or as published."""


class Look(Protocol):
    """Returns the machine's devices, given what the daemon keeps on each, and keeps for nobody."""

    def __call__(self, *, kept: Callable[[str], tuple[int, int]]) -> DeviceList:
        """As ``zhcached.residency.topology.machine``."""
        ...


@dataclass(frozen=True)
class Account:
    """What a worker takes, by device, in bytes.

    Attributes:
        weights: Of weights that others may share: arenas, or the page cache on the CPU.
        beside: What is the worker's own: contexts, pieces of a component.
        takes: Of a plan: at most, calls counted in; free memory has to hold it. GPUs alone.
        arenas: Of a plan: which components' weights are arenas on which GPU.
    """

    weights: Mapping[str, int]
    beside: Mapping[str, int]
    takes: Mapping[str, int] = field(default_factory=dict)
    arenas: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def seen(self, weights: int) -> Account:
        """Returns what it takes that has so many bytes of weights on each of its devices."""
        had = {device: max(n, weights - self.beside[device]) for device, n in self.weights.items()}
        return replace(self, weights=had)

    @property
    def devices(self) -> list[str]:
        """All devices of which it takes something."""
        return sorted({*self.weights, *self.beside})

    def on(self, device: str) -> int:
        """Returns what it takes of a device."""
        return self.weights.get(device, 0) + self.beside.get(device, 0)


@dataclass(frozen=True)
class Held:
    """What this daemon has on a device, in bytes.

    Attributes:
        all: Arenas, workers' own memory.
        idle: What of it goes for who comes.
        coming: What workers will take that have not loaded yet.
    """

    all: int = 0
    idle: int = 0
    coming: int = 0


def account_of(plan: Placed) -> Account:
    """Returns what a plan takes of each device. Pure."""
    names = {one.name: one.uuid or one.name for one in plan.devices}
    weights: dict[str, int] = {}
    pieces: dict[str, int] = {}
    arenas: dict[str, list[str]] = {}
    for name, part in plan.components.items():
        if part.use == "shard":
            for device, count in part.devices.items():
                pieces[names[device]] = pieces.get(names[device], 0) + count
            continue
        home = names[part.device] if part.use == "whole" else CPU
        weights[home] = weights.get(home, 0) + part.bytes
        if home != CPU:
            arenas.setdefault(home, []).append(name)
    takes = {names[one.name]: one.bytes for one in plan.devices if one.bytes and one.name != CPU}
    beside = {device: GPU_CONTEXT + pieces.get(device, 0) for device in takes}
    return Account(weights, beside, takes, arenas)


def home_of(plan: Placed) -> str:
    """Returns where the denoiser of a plan is, or its first piece."""
    return next(one.uuid or one.name for one in plan.devices if one.name == plan.workers[0])


class Placements:
    """Asks the planner for workers.

    Args:
        weigh: What components take.
        look: What devices there are.
    """

    def __init__(self, weigh: Weigh, look: Look) -> None:
        self._weigh = weigh
        self._look = look

    def weigh(self, kind: Kind) -> WeightsList:
        """Returns what the components of a kind take.

        Raises:
            ZhcacheError: The snapshot cannot be read.
        """
        return self._weigh(kind.repo, kind.made_of or kind.commit, kind.variant)

    def free(self) -> dict[str, int]:
        """Returns what is free on each GPU now, as the driver says."""
        heard = self._look(kept=lambda _: (0, 0))
        return {one.uuid or one.name: one.free for one in heard.devices}

    def plan(self, kind: Kind, weights: WeightsList, held: Callable[[str], Held]) -> Placed:
        """Returns where components go.

        Args:
            kind: A kind that is planned.
            weights: What they take.
            held: Tells what this daemon has on a device.

        Raises:
            NoSpace: Nothing fits.
            UsageError: The placement means nothing for this pipeline or these devices.
        """

        def kept(device: str) -> tuple[int, int]:
            had = held(device)
            # Our own context is no weight; what comes has its place.
            return had.all + GPU_CONTEXT, had.idle

        there = machine_of(self._look(kept=kept))
        coming = {one.name: held(one.uuid or one.name).coming for one in there.devices}
        devices = [replace(one, free=max(one.free - coming[one.name], 0)) for one in there.devices]
        machine = _only(replace(there, devices=devices), kind.sharing)
        return _decided(weights, machine, kind.placement)

    def is_better_split(self, kind: Kind, devices: Sequence[str]) -> bool:
        """Whether no device would have room for a copy of ``kind``, and all of them for a split.

        Asked of devices that nobody uses, so that the answer is the same whoever asks, and when.

        Raises:
            ZhcacheError: The snapshot cannot be read.
        """
        weights = self.weigh(kind)
        there = machine_of(self._look(kept=lambda _: (GPU_CONTEXT, 0)))
        empty = [replace(one, free=one.total) for one in there.devices]
        host = replace(there.host, free=there.host.total)
        machine = _only(replace(there, devices=empty, host=host), devices)
        return not _fits(weights, machine, "single") and _fits(weights, machine, "split")


def _fits(weights: WeightsList, machine: Machine, placement: str) -> bool:
    try:
        _decided(weights, machine, placement)
    except (NoSpace, UsageError):
        return False
    return True


def _decided(weights: WeightsList, machine: Machine, placement: str) -> Placed:
    model, size = model_of(weights, None, 1)
    return placed(
        decide(model, machine, placement),
        model,
        machine,
        size,
        repo=weights.repo,
        commit=weights.commit,
        variant=weights.variant,
    )


def _only(there: Machine, named: Sequence[str]) -> Machine:
    found = [one for one in there.devices if (one.uuid or one.name) in named]
    devices: list[Device] = [*found, there.host] if CPU in named or not found else found
    return replace(there, devices=devices, workers=[one.name for one in devices], is_named=True)
