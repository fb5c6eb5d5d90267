"""What the daemon says, as the planner takes it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from zhcache.placement import activation
from zhcache.placement.activation import Needs, Size
from zhcache.placement.devices import CPU, Device, LinkKind, Machine
from zhcache.placement.explain import by_hand, by_workers
from zhcache.placement.families import family_of
from zhcache.placement.model import Model, phase_of
from zhcache.placement.seen import Seen, corrected, learned
from zhcache.placement.sizes import Part
from zhcache.protocol.placement import DeviceList, WeightsList, WeightsPart
from zhcache.protocol.sources import Phrase


def machine_of(heard: DeviceList, there: Collection[str] = ()) -> Machine:
    """Returns the machine's GPUs, and its memory as ``cpu``.

    Args:
        heard: What the daemon says.
        there: UUIDs of those that hold the weights of what is planned: these are to stay.
    """
    gpus = [
        Device(
            one.name,
            one.total,
            # What is kept for nobody is let go for who comes.
            min(one.free + (0 if one.uuid in there else one.idle), one.total),
            one.uuid,
            one.most,
        )
        for one in heard.devices
    ]
    names = {one.uuid: one.name for one in heard.devices}
    host = Device(CPU, heard.host_total, min(heard.host_free, heard.host_total))
    links: dict[frozenset[str], LinkKind] = {
        frozenset((names[link.one], names[link.other])): link.kind
        for link in heard.links
        if link.one in names and link.other in names
    }
    return Machine(gpus, [gpu.name for gpu in gpus], host, links)


def model_of(
    heard: WeightsList,
    size: Size | None,
    batch: int,
    there: Collection[str] = (),
    seen: Sequence[Seen] | None = None,
) -> tuple[Model, Size]:
    """Returns a pipeline for calls of a size, and that size.

    Args:
        heard: Its components.
        size: Of a call's images; None is the pipeline's own.
        batch: Images at once.
        there: Names of devices that hold its weights already.
        seen: What a person says that calls of it took; None is what ``heard`` has seen.
    """
    weighted = {name: one for name, one in heard.parts.items() if one.bytes}
    denoiser = _denoiser(weighted)
    kind = denoiser.class_name if denoiser else ""
    family = family_of(kind)
    config = denoiser.config if denoiser else {}
    vae = _vae(weighted)
    vae_config = vae.config if vae else {}
    own = size or activation.own_size(config, vae_config, family)
    asked = Size(own.width, own.height, batch)
    encoders = [one.config for name, one in weighted.items() if phase_of(name) == "encode"]

    def calls(at: Size, *, has_text: bool = True) -> Needs:
        return activation.needs(
            config,
            vae_config,
            encoders,
            kind=kind,
            width=_width(denoiser.dtype if denoiser else ""),
            vae_width=_width(vae.dtype if vae else ""),
            size=at,
            has_text=has_text,
        )

    notes: list[Phrase] = []
    if seen is None:
        alike = [one for one in heard.seen if one.frames == family.film]
        needs, used = learned(asked, alike, calls, partial(calls, has_text=False))
        notes += by_workers(used)
    else:
        needs = corrected(calls(asked), seen, {each.size: calls(each.size) for each in seen})
        notes += by_hand(seen)
    heads = config.get("num_attention_heads", 0)
    parts = {name: _part(one) for name, one in weighted.items()}
    heads = heads if isinstance(heads, int) else 0
    return Model(
        parts,
        needs,
        family,
        heads,
        heard.pipeline,
        frozenset(there),
        notes,
        tokens=0 if family.is_unet else activation.tokens(config, vae_config, family, asked),
        side=activation.side(config, vae_config, family),
    ), asked


def _denoiser(parts: dict[str, WeightsPart]) -> WeightsPart | None:
    """Returns the largest of the denoisers: a call holds the steps of one at a time."""
    found = [one for name, one in parts.items() if phase_of(name) == "denoise"]
    return max(found, key=lambda one: one.bytes, default=None)


def _vae(parts: dict[str, WeightsPart]) -> WeightsPart | None:
    found = [
        one for name, one in parts.items() if phase_of(name) == "decode" and "safety" not in name
    ]
    return parts.get("vae") or next(iter(found), None)


def _width(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def _part(one: WeightsPart) -> Part:
    return Part(one.bytes, one.largest, one.block, one.dtype or None)
