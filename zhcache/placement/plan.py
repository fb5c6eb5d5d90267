"""Which way a pipeline is placed, and why not another. Pure.

Throughput is what a shared machine is for: a pipeline stays whole on one device where it fits, on
each of several that were named. It is split only where it must be: whole components to other
devices, then text encoders that wait in host memory, then a denoiser in pieces, and last weights
that stay in host memory. One image on several devices at once is quicker, and makes fewer images in
all: it is done for who asks for it, never by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from zhcache.errors import NoSpace, UsageError
from zhcache.i18n import mark
from zhcache.placement import explain, ways
from zhcache.placement.devices import Device, Machine
from zhcache.placement.explain import said
from zhcache.placement.model import Model
from zhcache.placement.parallel import shared
from zhcache.placement.ways import KINDS, Way
from zhcache.protocol.placement import How, Kind
from zhcache.protocol.sources import Phrase

AUTO = "auto"


@dataclass(frozen=True)
class Rejected:
    """A way that was considered, and why it was not taken.

    Attributes:
        kind: Of the five.
        how: Which of its kind; None where the kind was not looked at.
        why: In a sentence.
        short: Bytes that a device lacks; None where memory is not the reason.
    """

    kind: Kind
    how: How | None
    why: Phrase
    short: int | None = None


@dataclass(frozen=True)
class Plan:
    """Where a pipeline goes.

    Attributes:
        way: The way that was chosen.
        reason: Why it was, in sentences.
        rejected: What else was considered.
    """

    way: Way
    reason: Sequence[Phrase]
    rejected: Sequence[Rejected]


Found = Way | Rejected


def decide(model: Model, machine: Machine, placement: str = AUTO) -> Plan:
    """Returns where a pipeline goes.

    Args:
        model: The pipeline.
        machine: The devices that may be used.
        placement: One of ``KINDS``; ``auto`` chooses any but ``parallel``.

    Raises:
        UsageError: It is no placement, or means nothing for this pipeline or these devices.
        NoSpace: Nothing fits; the message names what lacks least.
    """
    kind = _kind(placement)
    if not model.parts:
        raise UsageError(
            "the pipeline has no weights in safetensors: there is nothing to place",
            hint="zhcache show REPO lists its files",
        )
    rejected: list[Rejected] = []
    for found in _tried(model, machine, kind):
        if isinstance(found, Way):
            rejected += _not_tried(found, rejected) if kind is None else []
            # What fits nowhere whole is split for that, whoever asked for it.
            is_asked = kind is not None and (kind != "split" or _is_whole(model, machine))
            why = explain.reason(found, model, machine, is_asked=is_asked)
            return Plan(found, why, rejected)
        rejected.append(found)
    raise _nothing(rejected, machine)


def _kind(placement: str) -> Kind | None:
    for kind in KINDS:
        if placement == kind:
            return kind
    if placement == AUTO:
        return None
    raise UsageError(
        "{name}={value} cannot be meant",
        hint="it takes {allowed}",
        name="placement",
        value=repr(placement)[:80],
        allowed=" | ".join((AUTO, *KINDS)),
    )


def _tried(model: Model, machine: Machine, kind: Kind | None) -> Iterator[Found]:
    """Yields each way in turn: itself where it fits, else why not."""
    tries: dict[Kind, Callable[[Model, Machine], Iterator[Found]]] = {
        "single": _single,
        "replicate": _replicate,
        "split": _split,
        "parallel": _parallel,
        "offload": _offload,
    }
    if kind is not None:
        yield from tries[kind](model, machine)
        return
    if machine.is_named and len(machine.workers) > 1:
        yield from _replicate_where_it_fits(model, machine)
    yield from _single(model, machine)
    yield from _split(model, machine)
    yield from _offload(model, machine)


def _single(model: Model, machine: Machine) -> Iterator[Found]:
    devices = sorted(machine.devices, key=lambda one: (one.name not in model.there, -one.room))
    yield from _first(
        (ways.one(model, device, is_tiled=is_tiled) for is_tiled in _tilings(model)
         for device in devices),
        machine,
    )  # fmt: skip


def _is_whole(model: Model, machine: Machine) -> bool:
    """Tells whether a device has room for all of it."""
    return any(isinstance(found, Way) for found in _single(model, machine))


def _replicate(model: Model, machine: Machine) -> Iterator[Found]:
    workers = machine.workers
    found = (ways.copies(model, machine, workers, is_tiled=tiled) for tiled in _tilings(model))
    yield from _first(found, machine)


def _replicate_where_it_fits(model: Model, machine: Machine) -> Iterator[Found]:
    """Yields the copies on all devices that have room, where these are several workers.

    Whole or in tiles alike for all: an image must not depend on who made it.
    """
    best: Way | None = None
    for is_tiled in _tilings(model):
        every = ways.copies(model, machine, machine.workers, is_tiled=is_tiled)
        fits = [name for name in machine.workers if _has_room(every, machine.named(name))]
        if len(fits) > max(1, len(best.workers) if best else 0):
            best = ways.copies(model, machine, fits, is_tiled=is_tiled)
    if best is not None:
        yield best
    else:
        yield from (each for each in _replicate(model, machine) if isinstance(each, Rejected))


def _split(model: Model, machine: Machine) -> Iterator[Found]:
    gpus = machine.gpus
    if not gpus:
        yield Rejected("split", None, said(mark("there is no GPU to split it with")))
        return
    groups = [group for group in machine.groups() if len(group) > 1]
    if not groups:
        why = said(mark("there is one GPU that a process can use, not several"))
        yield Rejected("split", "apart", why)
    else:
        nowhere = said(mark("there is a component that has room on no device"))
        yield from _first(_apart(model, groups), machine, Rejected("split", "apart", nowhere))
    waiting = (
        ways.freed(model, device, machine.host, is_tiled=is_tiled)
        for is_tiled in _tilings(model)
        for device in gpus
    )
    none = said(mark("there is no text encoder that could wait in host memory"))
    yield from _first(waiting, machine, Rejected("split", "freed", none))
    if groups:
        pieces = (
            ways.sharded(model, group, is_tiled=is_tiled)
            for is_tiled in _tilings(model)
            for group in groups
        )
        little = said(mark("all devices together have too little room for it in pieces"))
        yield from _first(pieces, machine, Rejected("split", "sharded", little))


def _apart(model: Model, groups: Sequence[Sequence[Device]]) -> Iterator[Way | None]:
    for is_tiled in _tilings(model):
        for group in groups:
            # What fits on one device whole is split only for who asks: then not all to the first.
            calls = model.calls(model.parts, is_tiled=False)
            is_spread = group[0].left(model.bytes, calls) >= 0
            yield ways.apart(model, group, is_tiled=is_tiled, is_spread=is_spread)


def _offload(model: Model, machine: Machine) -> Iterator[Found]:
    found = (
        ways.streamed(model, device, machine.host, is_tiled=tiled)
        for tiled in _tilings(model)
        for device in machine.gpus[:1]
    )
    none = Rejected("offload", "streamed", said(mark("there is no GPU that it could come to")))
    yield from _first(found, machine, none)


def _parallel(model: Model, machine: Machine) -> Iterator[Found]:
    cut = shared(model, machine)
    found = (
        replace(
            ways.copies(model, machine, cut.workers, is_tiled=tiled, kind="parallel", how=cut.how),
            notes=cut.notes,
        )
        for tiled in _tilings(model)
    )
    yield from _first(found, machine)


def _first(
    found: Iterator[Way | None], machine: Machine, otherwise: Rejected | None = None
) -> Iterator[Found]:
    """Yields the first that fits, else what lacks least, else ``otherwise``."""
    short: list[Rejected] = []
    for way in found:
        if way is None:
            continue
        lack = _lack(way, machine)
        if lack is None:
            yield way
            return
        short.append(lack)
    if least := min(short, key=lambda one: one.short or 0, default=otherwise):
        yield least


def _lack(way: Way, machine: Machine) -> Rejected | None:
    """Returns what a way lacks, at the device that lacks most; None where it fits."""
    lacks = {name: need - machine.named(name).free for name, need in way.takes.items()}
    worst = max(lacks, key=lambda name: lacks[name])
    if lacks[worst] > 0:
        why = explain.over(worst, way.takes[worst], machine.named(worst).free)
        return Rejected(way.kind, way.how, why, lacks[worst])
    for name, count in way.weights.items():
        most = machine.named(name).most
        if most is not None and count > most:
            why = explain.over_share(name, count, most)
            return Rejected(way.kind, way.how, why, count - most)
    return None


def _has_room(way: Way, device: Device) -> bool:
    most = device.most
    is_kept = most is None or way.weights[device.name] <= most
    return is_kept and way.takes[device.name] <= device.free


def _tilings(model: Model) -> tuple[bool, ...]:
    return (False, True) if model.needs.decode_tiled < model.needs.decode else (False,)


def _not_tried(way: Way, tried: Sequence[Rejected]) -> list[Rejected]:
    seen = {each.kind for each in tried} | {way.kind}
    return [
        Rejected(kind, None, explain.left_out(kind, way.kind)) for kind in KINDS if kind not in seen
    ]


def _nothing(rejected: Sequence[Rejected], machine: Machine) -> NoSpace | UsageError:
    short = [each for each in rejected if each.short is not None]
    if not short:
        why = rejected[-1].why
        return UsageError(why.template, hint="zhcache plan REPO says what fits", **why.values)
    least = min(short, key=lambda one: one.short or 0)
    hint = mark(
        "make a smaller variant (zhcache prefetch REPO --variant int8), ask for a smaller image, or"
        " free memory: zhcache ps"
    )
    if machine.is_host_ours and any(e.why.values["device"] == machine.host.name for e in short):
        hint = mark(
            "weights could wait in host memory, which is taken to be this machine's: suppose more,"
            " --host-memory 128GiB"
        )
    if "most" in least.why.values:
        return NoSpace(
            "the pipeline fits in no way that was looked at: as {placement}, {need} of weights are"
            " needed on {device}, and zhcached keeps {most} there at most",
            hint="raise [residency] vram in config.toml, or make a smaller variant",
            placement=least.kind,
            **least.why.values,
        )
    return NoSpace(
        "the pipeline fits in no way that was looked at: as {placement}, {need} are needed on"
        " {device}, {free} are free",
        hint=hint,
        placement=least.kind,
        **least.why.values,
    )
