"""A plan in sentences, as templates that are put into the reader's language. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zhcache.i18n import mark
from zhcache.placement.devices import Machine
from zhcache.placement.model import Model
from zhcache.placement.seen import Seen
from zhcache.placement.sizes import shown
from zhcache.placement.ways import Way
from zhcache.protocol.placement import Kind, SeenCall
from zhcache.protocol.sources import Phrase

_WHY = {
    "one": mark("all of it fits on {device}, where nothing has to cross devices"),
    "copies": mark("all of it fits on each of {devices}: each makes images of its own"),
    "apart": mark("no device has room for all of it: whole components lie on {devices}"),
    "freed": mark(
        "no device has room for all of it: {encoders} wait in host memory and come to {device}"
        " layer by layer for the prompt"
    ),
    "sharded": mark("no device has room for {component} whole: its layers lie on {devices}"),
    "guidance": mark("one image on {devices}, each makes one of the two passes of guidance"),
    "ulysses": mark("one image on {devices}, each has a part of its attention heads (Ulysses)"),
    "streamed": mark("no split fits: the weights stay in host memory and come layer by layer"),
}
_SPLIT = {
    "apart": mark("whole components lie on {devices}, as was asked"),
    "freed": mark(
        "{encoders} wait in host memory and come to {device} layer by layer for the prompt, as was"
        " asked"
    ),
    "sharded": mark("the layers of {component} lie on {devices}, as was asked"),
    "streamed": mark("the weights stay in host memory and come layer by layer, as was asked"),
}

_BY_WORKERS = ("copies", "guidance", "ulysses")
"""Ways that begin with workers, of which several may be on one device."""


def said(template: str, /, **values: object) -> Phrase:
    """Returns a sentence with its values."""
    return Phrase(template=template, values={name: str(value) for name, value in values.items()})


def reason(way: Way, model: Model, machine: Machine, *, is_asked: bool) -> list[Phrase]:
    """Returns why a way was taken, and what it takes."""
    why = _SPLIT.get(way.how, _WHY[way.how]) if is_asked else _WHY[way.how]
    gpus = [name for name in way.takes if name != machine.host.name] or [machine.host.name]
    cut = [name for name, place in way.places.items() if place.use == "shard"]
    told = said(
        why,
        device=gpus[0],
        devices=", ".join(way.workers if way.how in _BY_WORKERS else gpus),
        encoders=", ".join(model.named("encode")),
        component=", ".join(cut),
    )
    return [told, *_numbers(way, model, machine), *_beside(way, model, machine)]


def by_workers(seen: Sequence[SeenCall]) -> list[Phrase]:
    """Returns which calls corrected what is reckoned, if any did."""
    sizes = dict.fromkeys(f"{one.width}x{one.height}" for one in seen)
    calls = sum(one.calls for one in seen)
    how = mark("what calls take is corrected by what was seen at {sizes} (calls: {calls})")
    return [said(how, sizes=", ".join(sizes), calls=calls)] if seen else []


def by_hand(seen: Sequence[Seen]) -> list[Phrase]:
    """Returns that what is reckoned was corrected by what a person says, if it was."""
    sizes = dict.fromkeys(f"{one.size.width}x{one.size.height}" for one in seen)
    how = mark("what calls take is corrected by what was named for {sizes}")
    return [said(how, sizes=", ".join(sizes))] if seen else []


def over(device: str, need: int, free: int) -> Phrase:
    """Returns that a device has too little."""
    return said(
        mark("{need} are needed on {device}, {free} are free"),
        device=device, need=shown(need), free=shown(free),
    )  # fmt: skip


def over_share(device: str, need: int, most: int) -> Phrase:
    """Returns that more weights would lie on a device than may be kept there."""
    return said(
        mark("{need} of weights are needed on {device}, zhcached keeps {most} there at most"),
        device=device, need=shown(need), most=shown(most),
    )  # fmt: skip


def left_out(kind: Kind, taken: Kind) -> Phrase:
    """Returns why a kind was not looked at, with another taken."""
    if kind == "parallel":
        return said(mark("quicker for one image, fewer images in all: only if it is asked for"))
    if kind == "replicate" and taken == "single":
        return said(mark("one device is used unless several are named"))
    return said(mark("not needed: {placement} fits"), placement=taken)


def _numbers(way: Way, model: Model, machine: Machine) -> Iterator[Phrase]:
    for name, count in way.takes.items():
        yield said(
            mark("{device}: {need} of {free} free"),
            device=name, need=shown(count), free=shown(machine.named(name).free),
        )  # fmt: skip
    how = mark("{bytes} of it are for calls, the autoencoder in tiles")
    if not way.is_tiled:
        how = mark("{bytes} of it are for calls, the autoencoder whole")
    yield said(how, bytes=shown(model.calls(model.parts, is_tiled=way.is_tiled)))
    yield from model.notes


def _beside(way: Way, model: Model, machine: Machine) -> Iterator[Phrase]:
    if there := model.there & set(way.takes):
        yield said(mark("the weights are on {devices} already"), devices=", ".join(sorted(there)))
    if machine.is_host_ours and machine.host.name in way.takes:
        yield said(mark("host memory is taken to be this machine's; --host-memory says otherwise"))
    unused = [name for name in dict.fromkeys(machine.workers) if name not in way.takes]
    if unused and machine.is_named:
        yield said(mark("{devices} is left out"), devices=", ".join(unused))
    yield from way.notes
    if way.how == "ulysses" and (not model.heads or model.heads % len(way.workers)):
        yield said(mark("its attention heads do not divide among them and are padded"))
    if way.how == "ulysses" and machine.joined(list(way.takes)) != "nvlink":
        yield said(mark("not all of them are joined by NVLink: more devices help little"))
