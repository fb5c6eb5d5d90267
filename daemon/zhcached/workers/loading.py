"""The pipeline that a resident worker holds: read by stock diffusers, placed on its device."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zhcache.errors import IntegrityError, UsageError
from zhcache.pipeline import lean, reading, spread
from zhcache.pipeline.attach import Hand
from zhcache.pipeline.choose import free, taught
from zhcache.pipeline.fit import Fit, fit, parse
from zhcache.pipeline.kin import pipeline_class, sibling
from zhcache.pipeline.needs import form, needs
from zhcache.pipeline.published import index as index_of
from zhcache.pipeline.quick import paused_collector
from zhcache.pipeline.tuning import compile_blocks
from zhcache.placement.sizes import Form
from zhcache.protocol.placement import Placed
from zhcache.protocol.residency import Arena, Load
from zhcache.resident.decode import Decoder
from zhcached.workers import spreading
from zhcached.workers.compiling import Compiled, attend
from zhcached.workers.schedulers import Schedulers
from zhcached.workers.weights import Weights


class Held:
    """A pipeline and what its calls must not change.

    Attributes:
        device: The torch device it is on; of several, the one where it computes by itself.
        schedulers: As they were loaded.
        weights: As they were loaded.
        compiled: What was compiled, where ``compile`` was asked for.
    """

    def __init__(
        self, pipeline: Any, device: torch.device, compiled: Compiled | None = None
    ) -> None:
        self.device = device
        self.compiled = compiled
        self.schedulers = Schedulers(pipeline)
        self.weights = Weights(pipeline)
        self._own = pipeline
        self._others: dict[str, Any] = {type(pipeline).__name__: pipeline}

    def as_class(self, name: str | None) -> Any:
        """Returns the pipeline, or one of class ``name`` over the same components.

        Raises:
            UsageError: diffusers has no such pipeline, or it needs components that are not here.
        """
        if name is None:
            return self._own
        if name not in self._others:
            made = sibling(pipeline_class(name), self._own)
            self._others[name] = _quiet(spread.follow(self._own, made))
        return self._others[name]


def load(request: Load, fds: Sequence[int], note: Callable[[str], None]) -> Held:
    """Returns the pipeline that ``request`` names.

    Args:
        request: What to load, onto which device.
        fds: What came beside it; stays the caller's.
        note: Told what is being done.

    Raises:
        Incomplete: Files are missing.
        UsageError: An option that cannot be meant, or no such device.
        IntegrityError: The snapshot's files cannot be read, or lack weights.
        Exception: Whatever diffusers raised when it moved or compiled the pipeline.
    """
    folder = Path(request.folder)
    if len(fds) != len(request.arenas) + request.artifacts:
        raise UsageError("{count} descriptors came to load from", count=len(fds))
    plan = request.plan
    if plan is not None:
        plan = spreading.here(plan, lambda uuid: str(device_of(uuid)))
    device = device_of(request.device) if plan is None else torch.device(plan.workers[0])
    options = _options(folder, Decoder([]).decode(request.options))
    with paused_collector():
        pipeline = _read(folder, request, fds, options, plan or device, note)
    gc.collect()
    # What is loaded stays: later collections need not walk it.
    gc.freeze()
    if request.attention is not None:
        attend(pipeline, request.attention)
    compiled = None
    if request.compile:
        compiled = Compiled()
        if request.artifacts:
            note("taking up what was compiled before")
            compiled.take_up(fds[-1])
        compile_blocks(pipeline)
    return Held(_quiet(pipeline), device, compiled)


def _read(
    folder: Path,
    request: Load,
    fds: Sequence[int],
    options: dict[str, Any],
    place: torch.device | Placed,
    note: Callable[[str], None],
) -> Any:
    if isinstance(place, Placed):
        note("reading the pipeline, and attaching the weights on each of its devices")
        return spreading.read(folder, place, options, _handing(request, fds))
    device = place
    if not request.arenas:
        note("reading the pipeline")
        pipeline = reading.over_files(folder, options)
        chosen = _chosen(folder, request, device)
        if device.type != "cpu" and not (chosen and chosen.is_offloaded):
            note(f"moving it to {device}")
            pipeline.to(device)
        return lean.apply(pipeline, chosen, device) if chosen else pipeline
    note("attaching the weights")
    pipeline = reading.over_arenas(folder, device, options, _handing(request, fds))
    chosen = _chosen(folder, request, device)
    return lean.apply(pipeline, chosen, device) if chosen else pipeline


def _handing(request: Load, fds: Sequence[int]) -> Hand:
    """Returns what gives the arenas that came, whatever device they are asked for on."""
    came = {
        arena.table.component: (arena, fd) for arena, fd in zip(request.arenas, fds, strict=False)
    }

    def hand(_: str, wanted: list[str], damaged: list[str]) -> list[tuple[Arena, int]]:
        if damaged or not came.keys() >= set(wanted):
            raise IntegrityError(
                "the weights in the arenas {keys} are not what the front promised",
                hint="`zhcache stop` lets them go, and the next call fills them anew",
                keys=", ".join(damaged or wanted),
            )
        return [(came[name][0], os.dup(came[name][1])) for name in wanted]

    return hand


def _chosen(folder: Path, request: Load, device: torch.device) -> Fit | None:
    """Returns how the pipeline is made to fit, where that was asked for."""
    if request.memory is None:
        return None
    wanted = parse(int(request.memory) if request.memory.isdigit() else request.memory)
    weights = formed(folder, request, is_cuda=device.type == "cuda")
    return fit([weights], needs(folder), wanted, free=free(device), is_cuda=device.type == "cuda")


def formed(folder: Path, request: Load, *, is_cuda: bool) -> Form:
    """Returns what the weights of ``request`` take, and on a GPU what calls were seen to take."""
    found = replace(form(folder, request.variant), is_there=bool(request.arenas))
    # As an attached pipeline's: of the CPU nothing was seen.
    return taught(found, request.weights) if is_cuda and request.weights else found


def device_of(name: str) -> torch.device:
    """Returns the torch device that ``name``, ``cpu`` or a GPU's UUID, stands for here.

    Raises:
        UsageError: This process does not see it.
    """
    if name == "cpu":
        return torch.device("cpu")
    from zhcache.pipeline import cuda, vmm

    cuda.needs_cuda()
    return torch.device("cuda", vmm.ordinal_of(name))


def _options(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Refuses what is not for the pipeline's constructor, or is more than a plain setting of it."""
    index = index_of(folder)
    known = inspect.signature(pipeline_class(index.get("_class_name")).__init__).parameters
    for name, value in options.items():
        if name == "self" or name not in known:
            raise UsageError(
                "{kind} takes no option {name}",
                hint="it takes {known}",
                kind=index["_class_name"],
                name=name[:80],
                known=", ".join(list(known)[1:]),
            )
        is_component = isinstance(index.get(name), list)
        if value is not None and (is_component or not isinstance(value, (bool, int, float, str))):
            raise UsageError(
                "{name} cannot be replaced in a resident pipeline, only left out with None",
                hint="mode='attach' takes components of your own",
                name=name,
            )
    return options


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
