"""The ways in which a pipeline can lie on devices, and what each takes of them. Pure.

A way is built for a number of devices and for an autoencoder whole or in tiles. It says where each
component is and what every device has to have free; whether that is free is asked in ``plan``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from zhcache.placement.devices import CPU, Device, Machine
from zhcache.placement.model import Model
from zhcache.placement.packing import largest_first, packed
from zhcache.protocol.placement import How, Kind, Use
from zhcache.protocol.sources import Phrase

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Place:
    """Where a component is.

    Attributes:
        shares: Bytes of its weights on each device; for what waits in host memory, what it takes
            of the device in its turn.
        use: ``whole``; ``copy``, one on each; ``shard``, a piece on each; ``streamed`` from host
            memory, layer by layer.
    """

    shares: Mapping[str, int]
    use: Use = "whole"


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        kind: Of the five that can be asked for.
        how: Which of its kind.
        places: Each component's.
        takes: Bytes of each device at most, margin and reserve included.
        weights: Bytes of them that are weights, which lie there all the time.
        workers: The devices that make a whole image each; of several, one process for each.
        is_tiled: The autoencoder works in tiles.
        notes: What is to be said of it beside.
    """

    kind: Kind
    how: How
    places: Mapping[str, Place]
    takes: Mapping[str, int]
    weights: Mapping[str, int]
    workers: Sequence[str] = field(default_factory=tuple)
    is_tiled: bool = False
    notes: Sequence[Phrase] = ()


def one(model: Model, device: Device, *, is_tiled: bool) -> Way:
    """Returns the way with everything on one device."""
    return Way(
        "single",
        "one",
        {name: Place({device.name: part.bytes}) for name, part in model.parts.items()},
        {device.name: _whole(model, device, 1, is_tiled)},
        {device.name: _held(model, device.name)},
        (device.name,),
        is_tiled,
    )


def copies(
    model: Model, machine: Machine, workers: Sequence[str], *, is_tiled: bool,
    kind: Kind = "replicate", how: How = "copies",
) -> Way:  # fmt: skip
    """Returns the way with all of it on each device; workers on one device share its weights."""
    by_name = {device.name: device for device in machine.devices}
    takes = {
        name: _whole(model, by_name[name], workers.count(name), is_tiled)
        for name in dict.fromkeys(workers)
    }
    places = {
        name: Place(dict.fromkeys(takes, part.bytes), "copy") for name, part in model.parts.items()
    }
    weights = {name: _held(model, name) for name in takes}
    return Way(kind, how, places, takes, weights, tuple(workers), is_tiled)


def apart(
    model: Model, devices: Sequence[Device], *, is_tiled: bool, is_spread: bool = False
) -> Way | None:
    """Returns the way with whole components on few devices, None where one fits on none of them.

    Args:
        model: What is placed.
        devices: In the order in which they are to be used.
        is_tiled: The autoencoder works in tiles.
        is_spread: Text encoders go to another device than the first.
    """
    held = packed(model, devices, is_tiled=is_tiled, is_spread=is_spread)
    if held is None:
        return None
    where = {name: device for device, names in held.items() for name in names}
    by_name = {device.name: device for device in devices}
    return Way(
        "split",
        "apart",
        {name: Place({where[name]: part.bytes}) for name, part in model.parts.items()},
        {
            device: model.weights(names)
            + model.calls(names, is_tiled=is_tiled)
            + by_name[device].reserve
            for device, names in held.items()
            if names
        },
        {device: model.weights(names) for device, names in held.items() if names},
        (_first_of(model, where),),
        is_tiled,
    )


def freed(model: Model, device: Device, host: Device, *, is_tiled: bool) -> Way | None:
    """Returns the way whose text encoders are on the device only while they read the prompt.

    They wait in host memory and come layer by layer, so that the rest can stay: a denoiser that
    made way for them would have to come back for every image. None where there is none to wait.
    """
    encoders = model.named("encode")
    others = [name for name in model.parts if name not in encoders]
    if not encoders or not others or device.name == CPU:
        return None
    turns = {name: 2 * model.parts[name].largest for name in encoders}
    reading = max(turns.values()) + model.calls(encoders, is_tiled=is_tiled)
    calls = max(reading, model.calls(others, is_tiled=is_tiled))
    return Way(
        "split",
        "freed",
        {
            name: Place({device.name: turns[name]}, "streamed")
            if name in turns
            else Place({device.name: part.bytes})
            for name, part in model.parts.items()
        },
        {
            device.name: model.weights(others) + calls + device.reserve,
            host.name: model.weights(encoders),
        },
        {device.name: model.weights(others)},
        (device.name,),
        is_tiled,
    )


def sharded(model: Model, devices: Sequence[Device], *, is_tiled: bool) -> Way | None:
    """Returns the way whose largest denoiser lies in pieces on several devices.

    The rest is placed first, each component where most is free; then each device takes a piece of
    what room it has left. A device holds its piece, and the step that comes by. None where all of
    them have too little, or it is on one device after all.
    """
    denoisers = model.named("denoise")
    if not denoisers or len(devices) < 2:
        return None
    cut = max(denoisers, key=lambda name: model.parts[name].bytes)
    held = _rest(model, cut, devices, is_tiled=is_tiled)
    rooms = {
        device.name: device.left(
            model.weights(held[device.name]),
            model.calls([*held[device.name], cut], is_tiled=is_tiled),
        )
        for device in devices
    }
    shares = _shares(model.parts[cut].bytes, model.parts[cut].block, rooms)
    if shares is None or len(shares) < 2:
        return None
    places = {
        name: Place({at: model.parts[name].bytes}) for at, names in held.items() for name in names
    }
    takes: dict[str, int] = {}
    weights: dict[str, int] = {}
    for device in devices:
        names = [*held[device.name], *([cut] if device.name in shares else [])]
        if names:
            weights[device.name] = model.weights(held[device.name]) + shares.get(device.name, 0)
            calls = model.calls(names, is_tiled=is_tiled)
            takes[device.name] = weights[device.name] + calls + device.reserve
    ordered = {
        name: Place(shares, "shard") if name == cut else places[name] for name in model.parts
    }
    return Way("split", "sharded", ordered, takes, weights, (next(iter(shares)),), is_tiled)


def streamed(model: Model, device: Device, host: Device, *, is_tiled: bool) -> Way | None:
    """Returns the way whose weights stay in host memory and come layer by layer."""
    if device.name == CPU:
        return None
    # Two at once: while one layer computes, the next comes.
    return Way(
        "offload",
        "streamed",
        {
            name: Place({device.name: 2 * part.largest}, "streamed")
            for name, part in model.parts.items()
        },
        {
            device.name: 2 * model.largest
            + model.calls(model.parts, is_tiled=is_tiled)
            + device.reserve,
            host.name: model.bytes,
        },
        {},
        (device.name,),
        is_tiled,
    )


def _whole(model: Model, device: Device, workers: int, is_tiled: bool) -> int:
    calls = model.calls(model.parts, is_tiled=is_tiled)
    return _held(model, device.name) + workers * (calls + device.reserve)


def _held(model: Model, name: str) -> int:
    return 0 if name in model.there else model.bytes


def _first_of(model: Model, where: Mapping[str, str]) -> str:
    denoisers = model.named("denoise") or list(model.parts)
    return where[max(denoisers, key=lambda name: model.parts[name].bytes)]


def _rest(
    model: Model, cut: str, devices: Sequence[Device], *, is_tiled: bool
) -> dict[str, list[str]]:
    """Returns where all but ``cut`` go: each where most is free."""
    held: dict[str, list[str]] = {device.name: [] for device in devices}

    def left(device: Device, name: str) -> int:
        names = [*held[device.name], name]
        return device.left(model.weights(names), model.calls(names, is_tiled=is_tiled))

    for name in largest_first(model):
        if name != cut:
            held[max(devices, key=lambda device, name=name: left(device, name)).name].append(name)
    return held


def _shares(count: int, block: int, rooms: Mapping[str, int]) -> dict[str, int] | None:
    """Returns how much of a component of ``count`` bytes each device gets, None if it is too much.

    Layers are not cut, so that each piece is a whole number of ``block``; the last has the rest.
    """
    block = max(block, 1)
    blocks = -(-count // block)
    fits = {name: room // block for name, room in rooms.items() if room >= block}
    if sum(fits.values()) < blocks:
        return None
    shares: dict[str, int] = {}
    # As much of each as it has of the room: what is left over for larger images is even.
    for number, (name, most) in enumerate(fits.items()):
        others = sum(list(fits.values())[number + 1 :])
        taken = min(most, max(-(-blocks * most // (most + others)), blocks - others))
        if taken:
            shares[name] = min(taken * block, count)
            count -= shares[name]
            blocks -= taken
    return shares
