"""Which whole components lie on which of several devices. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zhcache.placement.devices import Device
from zhcache.placement.model import Model, phase_of

MAX_TRIES = 5000
"""Looks whether a component has room on a device. Real pipelines need some dozens."""


def packed(
    model: Model, devices: Sequence[Device], *, is_tiled: bool, is_spread: bool
) -> Mapping[str, Sequence[str]] | None:
    """Returns the components on each device, None where there is no room for all of them.

    The largest first, each on the first device that has room for it and its calls; where a later
    one is left over, an earlier one goes to the next device that has room. So what fits beside
    another is beside it, and no device is used that is not needed.

    Args:
        model: What is placed.
        devices: In the order in which they are to be used.
        is_tiled: The autoencoder works in tiles.
        is_spread: Text encoders go to another device than the first.
    """
    held: dict[str, list[str]] = {device.name: [] for device in devices}
    tries = 0

    def places(name: str) -> Sequence[Device]:
        return devices[1:] if is_spread and phase_of(name) == "encode" else devices

    def has_room(device: Device) -> bool:
        names = held[device.name]
        return device.left(model.weights(names), model.calls(names, is_tiled=is_tiled)) >= 0

    def place(rest: Sequence[str]) -> bool:
        nonlocal tries
        if not rest:
            return True
        empty: set[tuple[int, int | None, bool]] = set()
        for device in places(rest[0]):
            names = held[device.name]
            alike = (device.room, device.most, is_spread and device == devices[0])
            # What failed on an empty device fails on another as large.
            if tries >= MAX_TRIES or (not names and alike in empty):
                continue
            if not names:
                empty.add(alike)
            tries += 1
            names.append(rest[0])
            if has_room(device) and place(rest[1:]):
                return True
            names.pop()
        return False

    return held if place(largest_first(model)) else None


def largest_first(model: Model) -> list[str]:
    """Returns the components by what they take with their calls: a small VAE decodes in much."""

    def takes(name: str) -> int:
        return model.parts[name].bytes + model.calls([name], is_tiled=False)

    return sorted(model.parts, key=takes, reverse=True)
