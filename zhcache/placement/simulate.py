"""A plan played through, phase by phase: what lies on each device at each moment. Pure.

It knows nothing of how a plan reckons: it allocates and frees, component by component, and keeps
the highest sum of each device. A plan that reckons too little is found here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from zhcache.placement.devices import Machine
from zhcache.placement.model import PHASES, Model, Phase, phase_of
from zhcache.placement.ways import Way


@dataclass(frozen=True, slots=True)
class Event:
    """Bytes taken (or, below 0, given back) on a device, at a moment of a call."""

    at: str
    device: str
    bytes: int


@dataclass
class Ledger:
    """What lies where now, and how much did at most, at which moment."""

    now: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    peak: dict[str, tuple[int, str]] = field(default_factory=dict)

    def write(self, event: Event) -> None:
        """Takes an event in."""
        self.now[event.device] += event.bytes
        if self.now[event.device] > self.peak.get(event.device, (-1, ""))[0]:
            self.peak[event.device] = (self.now[event.device], event.at)


def simulate(way: Way, model: Model, machine: Machine) -> Mapping[str, tuple[int, str]]:
    """Returns the most bytes that lie on each device in one call, and when."""
    ledger = Ledger()
    for event in events(way, model, machine):
        ledger.write(event)
    return ledger.peak


def events(way: Way, model: Model, machine: Machine) -> Iterator[Event]:
    """Yields what happens from the start of the processes to the end of one call of each."""
    devices = {device: n for device, n in _processes(way).items() if device != machine.host.name}
    for device, count in devices.items():
        for _ in range(count):
            yield Event("start", device, machine.named(device).reserve)
    for name, place in way.places.items():
        yield from _loaded(name, place.use, place.shares, model, machine)
    for phase in PHASES:
        yield from _phase(phase, way, model, machine)


def _loaded(
    name: str, use: str, shares: Mapping[str, int], model: Model, machine: Machine
) -> Iterator[Event]:
    part = model.parts[name]
    if use == "streamed":
        yield Event("load", machine.host.name, part.bytes)
    elif use == "shard":
        # Layer by layer, each to the first device whose piece is not full yet.
        left = part.bytes
        for device, share in shares.items():
            full = share
            while full > 0 and left > 0:
                layer = min(part.block or left, full, left)
                yield Event(f"load {name}", device, layer)
                full, left = full - layer, left - layer
        # What has no piece to be in has to be somewhere.
        yield Event(f"load {name}", next(iter(shares)), left)
    else:
        for device in shares:
            if device not in model.there:
                yield Event(f"load {name}", device, part.bytes)


def _phase(phase: Phase, way: Way, model: Model, machine: Machine) -> Iterator[Event]:
    mine = {name: place for name, place in way.places.items() if phase_of(name) == phase}
    computing: dict[str, int] = {}
    processes = _processes(way)
    for place in mine.values():
        for device in place.shares:
            computing[device] = processes.get(device, 1)
    taken = model.call(phase, is_tiled=way.is_tiled)
    for device, count in computing.items():
        yield Event(phase, device, taken * count)
    for name, place in mine.items():
        if place.use == "streamed":
            yield from _streamed(phase, name, place.shares, model)
    for device, count in computing.items():
        yield Event(phase, device, -taken * count)


def _streamed(phase: Phase, name: str, shares: Mapping[str, int], model: Model) -> Iterator[Event]:
    """Yields tensors that come and go, the next one before the last has left."""
    part = model.parts[name]
    for device in shares:
        before = 0
        left = part.bytes
        while left > 0:
            layer = min(part.largest or left, left)
            yield Event(phase, device, layer)
            yield Event(phase, device, -before)
            before, left = layer, left - layer
        yield Event(phase, device, -before)


def _processes(way: Way) -> dict[str, int]:
    """Returns how many processes there are on each device."""
    names = way.workers if way.how in ("copies", "guidance", "ulysses") else way.takes
    return {name: list(names).count(name) for name in names}
