"""``load_pipeline(placement=...)``: when a plan is asked for, and which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zhcache.errors import NoSpace, UsageError

if TYPE_CHECKING:
    from zhcache.client import Client
    from zhcache.protocol.messages import Lease
    from zhcache.protocol.placement import Placed
    from zhcache.protocol.residency import Placement

PLANNED = ("split", "offload")


def is_planned(devices: Sequence[str], placement: str) -> bool:
    """Whether a plan says where components go; else all is on the one device."""
    return placement in PLANNED or len(devices) > 1


def check(devices: Sequence[str], mode: str, placement: str, memory: object) -> None:
    """Checks what goes with a placement that is planned.

    Raises:
        UsageError: An option does not.
    """
    is_auto = placement == "auto" and mode != "resident" and is_planned(devices, placement)
    if memory is not None and (placement in PLANNED or is_auto):
        raise UsageError(
            "memory and placement={placement} exclude each other: a plan reckons with what is free",
            hint="leave memory out, or name one device and no placement",
            placement=repr(placement),
        )


def of_workers(devices: Sequence[str], placement: str) -> Placement:
    """Returns what several devices are for in workers of the daemon's."""
    if placement == "auto" and len(devices) > 1:
        return "auto"
    for one in ("split", "offload", "parallel"):
        if placement == one:
            return one
    return "replicate"


def planned(client: Client, granted: Lease, devices: Sequence[str], placement: str) -> Placed:
    """Returns the plan for a leased pipeline in one process.

    Args:
        client: Asks the daemon what is there.
        granted: The lease.
        devices: As they were named; ``["auto"]`` is the GPUs that are here.
        placement: ``auto`` is whole on one of the devices, or else split.

    Raises:
        NoSpace: Nothing fits.
        UsageError: The placement means nothing for this pipeline or these devices.
    """
    named = None if list(devices) == ["auto"] else list(devices)
    kinds = ("single", "split") if placement == "auto" else (placement,)

    def plan(kind: str) -> Placed:
        return client.plan(
            granted.repo,
            variant=granted.variant,
            revision=granted.commit,
            devices=named,
            placement=kind,
        )

    for kind in kinds[:-1]:
        try:
            return plan(kind)
        except NoSpace:
            continue
    return plan(kinds[-1])
