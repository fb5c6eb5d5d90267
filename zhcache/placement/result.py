"""A plan as it is printed and returned. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from zhcache.errors import fill
from zhcache.placement.activation import Size
from zhcache.placement.devices import Machine
from zhcache.placement.model import Model
from zhcache.placement.plan import Plan
from zhcache.placement.ways import How, Kind, Place, Use
from zhcache.protocol.sources import Phrase


class PlacedDevice(msgspec.Struct, kw_only=True):
    """One device: ``bytes`` is what the plan takes of it at most; of one that is left out, 0."""

    name: str
    total: int
    free: int
    bytes: int
    uuid: str = ""


class PlacedComponent(msgspec.Struct, kw_only=True):
    """Where a component is.

    ``device`` is the first of ``devices``; ``bytes`` are all of its weights. ``use`` is ``whole``,
    ``copy`` (one on each device), ``shard`` (a piece on each) or ``streamed`` (the weights wait in
    host memory and come to the device layer by layer).
    """

    device: str
    bytes: int
    use: Use
    devices: dict[str, int]


class PlacedNot(msgspec.Struct, kw_only=True):
    """A placement that was not taken, and why; ``how`` is which of its kind, if any was tried."""

    placement: Kind
    reason: str
    how: How | None = None
    phrase: Phrase


class Placed(msgspec.Struct, kw_only=True):
    """Where a pipeline goes: what ``zhcache plan --json`` prints.

    Attributes:
        placement: ``single``, ``replicate``, ``split``, ``parallel`` or ``offload``.
        how: Which of its kind.
        workers: The devices of which each makes images, or which share one if ``parallel``.
        devices: All that were asked about, and the host where weights wait there.
        components: Those that have weights.
        activation_bytes: What calls take beside the weights, margin included.
        tiled: The autoencoder works in tiles.
        reason: Why, in English; ``phrases`` is the same to be put into another language.
        rejected: What else was considered.
    """

    repo: str
    commit: str
    variant: str | None
    placement: Kind
    how: How
    workers: list[str]
    devices: list[PlacedDevice]
    components: dict[str, PlacedComponent]
    activation_bytes: int
    tiled: bool
    size: list[int]
    batch: int
    reason: str
    rejected: list[PlacedNot]
    phrases: list[Phrase]
    schema: int = 1

    def __str__(self) -> str:
        return self.reason


def placed(
    plan: Plan, model: Model, machine: Machine, size: Size, *, repo: str, commit: str,
    variant: str | None,
) -> Placed:  # fmt: skip
    """Returns a plan as it is told."""
    way = plan.way
    shown = [*machine.devices]
    if machine.host.name in way.takes and machine.host not in shown:
        shown.append(machine.host)
    return Placed(
        repo=repo,
        commit=commit,
        variant=variant,
        placement=way.kind,
        how=way.how,
        workers=list(way.workers),
        devices=[
            PlacedDevice(
                name=one.name,
                total=one.total,
                free=one.free,
                bytes=way.takes.get(one.name, 0),
                uuid=one.uuid,
            )
            for one in shown
        ],
        components={
            name: _component(way.places[name], part.bytes) for name, part in model.parts.items()
        },
        activation_bytes=model.calls(model.parts, is_tiled=way.is_tiled),
        tiled=way.is_tiled,
        size=[size.width, size.height],
        batch=size.batch,
        reason=_english(plan.reason),
        rejected=[
            PlacedNot(placement=one.kind, how=one.how, reason=_english([one.why]), phrase=one.why)
            for one in plan.rejected
        ],
        phrases=list(plan.reason),
    )


def _component(place: Place, count: int) -> PlacedComponent:
    return PlacedComponent(
        device=next(iter(place.shares)), bytes=count, use=place.use, devices=dict(place.shares)
    )


def _english(phrases: Sequence[Phrase]) -> str:
    return "; ".join(fill(one.template, one.values) for one in phrases)
