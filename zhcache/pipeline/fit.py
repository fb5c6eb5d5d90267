"""How a pipeline is made to fit into memory: decided here, from sizes alone. Pure.

What costs least comes first: tiles in the autoencoder cost little time and no likeness, 16 bits a
weight next to none, 8 and 4 bits some; weights that stay in host memory and come layer by layer
cost most time. Layerwise casting is not among them: it writes a private copy of weights that are
shared here, and the fp8 variant is the same numbers, shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from zhcache.errors import NoSpace, UsageError
from zhcache.placement.activation import Needs, with_margin
from zhcache.placement.sizes import Form, bytes_of, shown

Memory = Literal["auto", "low"] | int


@dataclass(frozen=True)
class Fit:
    """What was chosen.

    Attributes:
        variant: Which weights.
        is_tiled: The autoencoder works in tiles, and on one image at a time.
        is_offloaded: Weights stay in host memory and come to the device layer by layer.
        bytes: What it is reckoned to take on the device.
        why: What was reckoned, in sentences.
    """

    variant: str | None
    is_tiled: bool
    is_offloaded: bool
    bytes: int
    why: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.why)


def parse(memory: object) -> Memory:
    """Returns what ``memory=`` means: ``auto``, ``low``, or bytes.

    Raises:
        UsageError: It cannot be meant.
    """
    if memory in ("auto", "low"):
        return "auto" if memory == "auto" else "low"
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    found = bytes_of(memory) if isinstance(memory, str) else None
    if found is None:
        raise UsageError(
            "{name}={value} cannot be meant",
            hint="it takes {allowed}",
            name="memory",
            value=repr(memory)[:80],
            allowed="'auto' | 'low' | '6GiB' | bytes",
        )
    return found


def fit(forms: Sequence[Form], needs: Needs, memory: Memory, *, free: int, is_cuda: bool) -> Fit:
    """Returns the way that costs least and fits; for ``low`` the one that takes least.

    Args:
        forms: The weights to choose from, the preferred first.
        needs: What calls take beside them, where a form does not say it of its own.
        memory: What was asked for; a number of bytes is a bound beside ``free``.
        free: Bytes that the device has now.
        is_cuda: Whether weights can stay in host memory instead.

    Raises:
        NoSpace: No way fits; the message names the one that takes least.
    """
    room = min(free, memory) if isinstance(memory, int) else free
    ways = list(_ways(forms, needs, is_cuda=is_cuda))
    least = min(ways, key=lambda way: way.bytes)
    if memory == "low":
        return _told(least, room, "the least of all ways")
    for way in ways:
        if way.bytes <= room:
            return _told(way, room, "the first that fits")
    raise NoSpace(
        "the pipeline needs {need} at least, {free} are free for it",
        hint="make a smaller variant (zhcache prefetch REPO --variant int8), or free memory:"
        " zhcache ps",
        need=shown(least.bytes),
        free=shown(room),
    )


def _ways(forms: Sequence[Form], needs: Needs, *, is_cuda: bool) -> Iterator[Fit]:
    """Yields every way, the cheapest first."""
    for is_offloaded in (False, True) if is_cuda else (False,):
        for form in forms:
            calling = form.needs or needs
            for is_tiled in (False, True) if calling.decode_tiled < calling.decode else (False,):
                # Two at once: while one layer computes, the next comes.
                weights = 2 * form.largest if is_offloaded else form.bytes * (not form.is_there)
                decode = calling.decode_tiled if is_tiled else calling.decode
                calls = with_margin(max(calling.step, decode, calling.encode))
                yield Fit(
                    form.variant,
                    is_tiled,
                    is_offloaded,
                    weights + calls,
                    tuple(_sentences(form, weights, calls, is_tiled, is_offloaded)),
                )


def _sentences(
    form: Form, weights: int, calls: int, is_tiled: bool, is_offloaded: bool
) -> Iterator[str]:
    name = "as published" if form.variant is None else f"variant {form.variant}"
    if is_offloaded:
        yield f"{name}: {shown(form.bytes)} of weights stay in host memory"
        yield f"{shown(weights)} of them on the device at a time, layer by layer"
    elif form.is_there:
        yield f"{name}: the weights are on the device already"
    else:
        yield f"{name}: {shown(weights)} of weights on the device"
    how = "in tiles" if is_tiled else "whole"
    yield f"{shown(calls)} for calls, the autoencoder {how}"
    if form.note:
        yield form.note


def _told(way: Fit, room: int, why: str) -> Fit:
    last = f"{shown(way.bytes)} of {shown(room)} free: {why}"
    return Fit(way.variant, way.is_tiled, way.is_offloaded, way.bytes, (*way.why, last))
