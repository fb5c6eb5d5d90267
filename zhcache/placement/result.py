"""A plan as it is told. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from zhcache.errors import fill
from zhcache.placement.activation import Size
from zhcache.placement.devices import Machine
from zhcache.placement.model import Model
from zhcache.placement.plan import Plan
from zhcache.placement.ways import Place
from zhcache.protocol.placement import Placed, PlacedComponent, PlacedDevice, PlacedNot
from zhcache.protocol.sources import Phrase


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
