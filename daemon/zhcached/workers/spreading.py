"""A resident pipeline over several devices: the daemon's plan, carried out as attach does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from zhcache.pipeline import reading, spread
from zhcache.pipeline.attach import Hand
from zhcache.protocol.placement import Placed


def here(plan: Placed, name_of: Callable[[str], str]) -> Placed:
    """Returns ``plan`` with the names that its devices have in this process.

    Args:
        plan: Of the daemon, which counts GPUs as NVML does; CUDA counts them by speed.
        name_of: Returns the name here of the GPU with a UUID.

    Raises:
        ZhcacheError: ``name_of`` knows of none.
    """
    used = {name for part in plan.components.values() for name in (part.device, *part.devices)}
    names = {
        one.name: name_of(one.uuid)
        for one in plan.devices
        if one.uuid and one.name in used | set(plan.workers)
    }

    def renamed(name: str) -> str:
        return names.get(name, name)

    return msgspec.structs.replace(
        plan,
        workers=[renamed(name) for name in plan.workers],
        devices=[
            msgspec.structs.replace(one, name=renamed(one.name))
            for one in plan.devices
            if not one.uuid or one.name in names
        ],
        components={
            name: msgspec.structs.replace(
                part,
                device=renamed(part.device),
                devices={renamed(device): count for device, count in part.devices.items()},
            )
            for name, part in plan.components.items()
        },
    )


def read(folder: Path, plan: Placed, options: Mapping[str, Any], hand: Hand) -> Any:
    """Returns the pipeline in ``folder``, its components where ``plan`` has them.

    Args:
        folder: The snapshot; what does not lie whole on a GPU is mapped from its files.
        plan: With the devices' names here.
        options: Of ``from_pretrained``.
        hand: Gives the arenas of a GPU.

    Raises:
        ZhcacheError: As ``zhcache.pipeline.reading.over_places``.
    """
    homes = spread.homes(plan)
    pipeline = reading.over_places(folder, homes, options, hand, None, is_mapped=True)
    return spread.arrange(pipeline, plan)
