"""The devices that a pipeline may be placed on, real or supposed, and what joins them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

from zhcache.errors import UsageError
from zhcache.placement.sizes import bytes_of

LinkKind = Literal["nvlink", "pcie", "system", "none"]
"""``system``: over the sockets of the machine. ``none``: no process can use both, as with the
slices of a divided GPU, of which CUDA shows a process one."""

CPU = "cpu"
RESERVE = 512 * 2**20
"""Bytes of a GPU that a process takes before its first tensor: CUDA's context and its kernels."""

MAX_DEVICES = 64
_NAMES = re.compile(r"cpu|cuda(?::\d{1,4})?|(?:GPU|MIG)-[0-9A-Fa-f/-]+")
_ORDER: Sequence[str] = get_args(LinkKind)


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    Attributes:
        name: ``cpu``, ``cuda:N``; ``gpuN`` for one that is supposed.
        total: Bytes of memory.
        free: Bytes that nobody has now.
        uuid: Of a GPU that is there.
        most: Bytes of weights that may be there; None is any number.
    """

    name: str
    total: int
    free: int
    uuid: str = ""
    most: int | None = None

    def left(self, weights: int, calls: int) -> int:
        """Returns the bytes of weights that have room beside these; below 0, what lacks."""
        left = self.room - weights - calls
        return left if self.most is None else min(left, self.most - weights)

    @property
    def room(self) -> int:
        """Bytes for weights and calls."""
        return max(self.free - self.reserve, 0)

    @property
    def reserve(self) -> int:
        """Bytes that a process takes of it for being there."""
        return 0 if self.name == CPU else RESERVE


@dataclass(frozen=True)
class Machine:
    """The devices that are asked about.

    Attributes:
        devices: Each once, in the order they were named.
        workers: Their names as they were named: one named twice stands for two processes on it.
        host: The memory of the machine, where weights can wait.
        links: What joins two, by both names.
        is_named: They were named, so that several are meant to be used.
        is_host_ours: The devices are supposed, and ``host`` is that of this machine all the same.
    """

    devices: Sequence[Device]
    workers: Sequence[str]
    host: Device
    links: Mapping[frozenset[str], LinkKind] = field(default_factory=dict)
    is_named: bool = False
    is_host_ours: bool = False

    @property
    def gpus(self) -> list[Device]:
        """The GPUs among its devices, the roomiest first."""
        found = [device for device in self.devices if device.name != CPU]
        return sorted(found, key=lambda one: -one.room)

    def groups(self) -> list[list[Device]]:
        """Returns GPUs that one process can use together, each in one group at least.

        In a group the one with most room for weights comes first, then those next to it.
        """
        gpus = sorted(self.gpus, key=lambda one: -one.left(0, 0))
        groups: list[list[Device]] = []
        for first in gpus:
            if not any(first in group for group in groups):
                groups.append(self._group(first, gpus))
        return groups

    def _group(self, first: Device, gpus: Sequence[Device]) -> list[Device]:
        taken = [first]
        for one in sorted(gpus, key=lambda one: self.distance(first.name, one.name)):
            if one != first and all(self.link(one.name, each.name) != "none" for each in taken):
                taken.append(one)
        return taken

    def named(self, name: str) -> Device:
        """Returns the device of that name."""
        return next((one for one in self.devices if one.name == name), self.host)

    def distance(self, one: str, other: str) -> int:
        """Returns how far two devices are from each other: 0 is nearest."""
        return _ORDER.index(self.link(one, other))

    def link(self, one: str, other: str) -> LinkKind:
        """Returns what joins two devices; what is not known goes over the bus."""
        return self.links.get(frozenset((one, other)), "pcie")

    def joined(self, names: Sequence[str]) -> LinkKind:
        """Returns the slowest of the links among devices."""
        worst = max((self.distance(a, b) for a in names for b in names if a != b), default=0)
        return cast("LinkKind", _ORDER[worst])


def chosen(text: str | None, there: Machine, host: int | None = None) -> Machine:
    """Returns the devices that ``text`` names.

    Args:
        text: None or ``auto`` for the GPUs that are there, else the CPU. Or names with commas,
            ``cuda:0,cuda:1``. Or sizes of GPUs that are supposed, ``24GiB,24GiB``; behind the last
            ``@nvlink``, ``@pcie``, ``@system`` or ``@none`` for what joins them, else it is PCIe.
        there: The machine's own.
        host: Bytes of memory that are free beside the devices; None is what is free here.

    Raises:
        UsageError: It cannot be meant, or a device is not there.
    """
    if host is not None:
        there = replace(there, host=Device(CPU, host, host))
    if text in (None, "auto"):
        gpus = [device for device in there.devices if device.name != CPU]
        names = [device.name for device in gpus] or [CPU]
        return replace(there, devices=gpus or [there.host], workers=names)
    words, at, link = text.partition("@")
    named = [word.strip() for word in words.split(",")]
    if at and link not in _ORDER:
        raise _unmeant(text)
    if len(named) > MAX_DEVICES:
        raise UsageError("more than {most} devices cannot be meant", most=MAX_DEVICES)
    sizes = [None if _NAMES.fullmatch(name) else bytes_of(name) for name in named]
    if all(size is not None for size in sizes):
        supposed = _supposed([size for size in sizes if size], link or "pcie", there)
        return replace(supposed, is_host_ours=host is None)
    if at or any(_NAMES.fullmatch(name) is None for name in named):
        raise _unmeant(text)
    found = [_found(name, there) for name in named]
    once = list({device.name: device for device in found}.values())
    workers = [device.name for device in found]
    return replace(there, devices=once, workers=workers, is_named=True)


def _supposed(sizes: Sequence[int], link: str, there: Machine) -> Machine:
    devices = [Device(f"gpu{n}", size, size) for n, size in enumerate(sizes)]
    names = [device.name for device in devices]
    kind = cast("LinkKind", link)
    pairs = [frozenset((a, b)) for a in names for b in names if a != b]
    return Machine(devices, names, there.host, dict.fromkeys(pairs, kind), is_named=True)


def _found(name: str, there: Machine) -> Device:
    name = "cuda:0" if name == "cuda" else name
    for device in (*there.devices, there.host):
        if name.lower() in (device.name, device.uuid.lower()):
            return device
    raise UsageError(
        "there is no device {device} here",
        hint="there is: {there}",
        device=name,
        there=", ".join(dict.fromkeys(d.name for d in (there.host, *there.devices))),
    )


def _unmeant(text: str) -> UsageError:
    return UsageError(
        "{name}={value} cannot be meant",
        hint="it takes {allowed}",
        name="devices",
        value=repr(text)[:80],
        allowed="'cpu' | 'cuda:0,cuda:1' | '24GiB,24GiB' | '80GiB,80GiB@nvlink'",
    )
