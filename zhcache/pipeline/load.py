"""``zhcache.load_pipeline``: a real diffusers pipeline over leased weights, or a worker's."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from zhcache.chinese.choose import check_asked
from zhcache.chinese.reader import Reader
from zhcache.client import Client
from zhcache.errors import UsageError
from zhcache.lease import Lease
from zhcache.pipeline import leasing, placing
from zhcache.pipeline.closed import Readable
from zhcache.pipeline.fit import Fit, Memory, parse
from zhcache.pipeline.leased import Held, bind, release
from zhcache.pipeline.options import (
    check_device,
    check_kinds,
    check_options,
    check_parts,
    check_words,
    places,
)

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from zhcache.protocol.placement import Placed
    from zhcache.protocol.residency import Arena


_ENDLESS_S = 1e9
"""A time to wait of thirty years or more is none."""


def load_pipeline(
    repo: str,
    variant: str | None = None,
    revision: str | None = None,
    *,
    mode: str = "attach",
    device: str | Sequence[str] = "auto",
    placement: str = "auto",
    chinese: str | None = "auto",
    timeout: float | None = None,
    attention: str | None = None,
    compile: bool = False,
    memory: str | int | None = None,
    chinese_keep: Sequence[str] = (),
    **from_pretrained_kwargs: Any,
) -> DiffusionPipeline:
    """Returns a diffusers pipeline whose weights stay leased while it lives.

    What is not in the store yet is fetched first, with progress on a terminal. The pipeline is
    read in the precision it was published in and without any network. On the CPU its weights are
    mapped, on a GPU they lie in memory that all processes of this user share. Where the store's
    files are closed to this user, it comes by descriptor, and is shared as well. It owns its lease:
    leaving ``with load_pipeline(...) as pipe:``, ``zhcache.release(pipe)`` and the end of the
    process each end it.

    Args:
        repo: ``OWNER/NAME``.
        variant: None, as published; or ``"fp16"``, ``"bf16"``, ``"fp8"``, ``"int8"``, ``"int4"`` or
            one of the configuration's, which the daemon makes once where it is not there yet.
        revision: Branch, tag or commit; None is the default branch.
        mode: ``"attach"``: in this process. ``"resident"``: a stand-in that is called the same way
            and has a warm worker do it; needs no torch here.
        device: ``"auto"`` is CUDA where there is one, else the CPU; or a torch device's name; or a
            list of them, which ``placement`` uses.
        placement: ``"single"``: all on ``device``. ``"replicate"``: a worker of the daemon's on
            each device of the list, ``["cpu", "cpu"]`` is two, behind the stand-in of
            ``mode="resident"``; lists of prompts with a seed for each are made by all of them, with
            equal images however many. ``"parallel"``: such a worker makes each image on all of them
            together, faster where the model allows it; ``pipe.memory_report`` says how.
            ``"split"``: components on different GPUs, text encoders in host memory or the denoiser
            in pieces, whichever has room first. ``"offload"``: weights come from host memory layer
            by layer. ``pipe.placement_report`` says why. ``"auto"``: one that has room of several,
            or with ``mode="resident"`` ``"replicate"`` if any could have; else ``"split"``.
        chinese: Who reads Chinese prompts; others are never touched. ``"native"``: the pipeline's
            own encoder, which can. ``"encoder"``: a Chinese one in its place.
            ``"adapter:NAME"``: an adapter into its space. ``"translate"``: a translator.
            ``"auto"``: the first of these that is there. None: texts go as they are.
            ``pipe.chinese_report`` says what became of those of the last call.
        timeout: Seconds to wait for a download or for room; None: as long as there is progress.
        attention: A backend of diffusers' ``set_attention_backend``.
        compile: Whether blocks that repeat are compiled at their first use.
        memory: ``"auto"``: made to fit into what the device has free; ``"low"``: to take as little
            as can be; ``"6GiB"`` or bytes: no more than that. Chooses among the variants that are
            here, where ``variant`` is None and in this process; tiles; weights that stay in host
            memory. ``pipe.memory_report`` says what was chosen, and why.
        chinese_keep: Words that a translation leaves as they are: what calls a LoRA, for instance.
        **from_pretrained_kwargs: Passed on: ``scheduler=``, ``safety_checker=None`` and so on.

    Raises:
        UsageError: An option that cannot be meant, or that this release does not have.
        NotFound: No such repository or revision.
        Busy: ``timeout`` is over; the download goes on.
        NoSpace: ``memory`` is less than the pipeline needs, or it fits in no way on the devices.
        VersionMismatch: The daemon's diffusers makes other modules of the files than this one.
        ZhcacheError: What else the daemon reported.
    """
    check_kinds(repo, variant, revision, timeout)
    timeout = _as_sockets_take_it(timeout)
    check_options(variant, mode, placement, from_pretrained_kwargs)
    check_asked(chinese)
    keep = check_words(chinese_keep)
    bound = None if memory is None else parse(memory)
    devices, is_by_workers = places(device, mode, placement)
    placing.check(devices, mode, placement, memory)
    where = (devices, placement, bound)
    asked = _Asked(repo, variant, revision, *where, attention, compile, from_pretrained_kwargs)
    if mode == "resident" or is_by_workers:
        return _stand_in(asked, chinese, keep, timeout)
    pipe, held = _attached(asked, None if timeout is None else time.monotonic() + timeout)
    of = held.lease.granted
    return bind(pipe, held, Reader(chinese, of.repo, of.commit, of.variant, keep))


def _as_sockets_take_it(timeout: float | None) -> float | None:
    """Returns None for what is as good as endless: sockets refuse so many seconds, and inf."""
    return None if timeout is not None and timeout > _ENDLESS_S else timeout


@dataclass(frozen=True)
class _Asked:
    """What is to be loaded."""

    repo: str
    variant: str | None
    revision: str | None
    devices: Sequence[str]
    placement: str
    memory: Memory | None
    attention: str | None
    compile: bool
    options: Mapping[str, Any]

    @property
    def device(self) -> str:
        return self.devices[0]


def _stand_in(
    asked: _Asked,
    chinese: str | None,
    keep: tuple[str, ...],
    timeout: float | None,
) -> Any:
    from zhcache.resident.open import open_resident

    return open_resident(
        asked.repo,
        variant=asked.variant,
        revision=asked.revision,
        device=asked.devices,
        placement=placing.of_workers(asked.devices, asked.placement),
        chinese=chinese,
        chinese_keep=keep,
        timeout=timeout,
        attention=asked.attention,
        compile=asked.compile,
        memory=asked.memory,
        options=asked.options,
    )


def _attached(asked: _Asked, until: float | None) -> tuple[Any, Held]:
    """Returns the pipeline, and what keeps its files."""
    if "device_map" in asked.options and asked.device != "auto":
        raise UsageError("device and device_map exclude each other", hint="leave one out")
    check_parts()
    for name in asked.devices:
        check_device(name)
    client = Client()
    try:
        variant, revision, chosen = asked.variant, asked.revision, None
        if asked.memory is not None:
            chosen, revision = _chosen(client, asked, asked.memory, until)
            variant = chosen.variant
        lease, there = leasing.lease(client, asked.repo, variant, revision, until)
    except BaseException:
        client.close()
        raise
    held = Held(client, lease)
    try:
        # What is offloaded comes from the host.
        place = "cpu" if chosen is not None and chosen.is_offloaded else asked.device
        with there:
            placed = None
            if placing.is_planned(asked.devices, asked.placement):
                placed = placing.planned(client, lease.granted, asked.devices, asked.placement)
            pipeline = _read(client, lease, there, placed or place, asked.options, until)
        if chosen is not None:
            _lean(pipeline, chosen, asked.device)
        _tune(pipeline, asked.attention, asked.compile)
    except BaseException:
        held.end()
        raise
    return pipeline, held


def _chosen(client: Client, asked: _Asked, memory: Memory, until: float | None) -> tuple[Fit, str]:
    """Returns how the model is made to fit, and its commit; fetches it first if need be."""
    # What is chosen from has to be here, and to stay until it is leased.
    held, there = leasing.lease(client, asked.repo, asked.variant, asked.revision, until)
    there.close()
    try:
        from zhcache.pipeline import choose, reading

        commit = held.granted.commit
        snapshot = client.show(asked.repo, revision=commit)
        device = reading.device_of(asked.device)
        weigh = partial(client.weights, asked.repo, revision=commit)
        warm = client.resident()
        found = choose.choose(
            snapshot, asked.variant, memory, device, lambda name: weigh(variant=name), warm
        )
        return found, commit
    finally:
        held.end()


def _lean(pipeline: Any, chosen: Fit, device_name: str) -> None:
    from zhcache.pipeline import lean, reading

    lean.apply(pipeline, chosen, reading.device_of(device_name))


def _read(
    client: Client,
    lease: Lease,
    there: Readable,
    place: str | Placed,
    options: Mapping[str, Any],
    until: float | None,
) -> Any:
    from zhcache.pipeline.quick import paused_collector

    def hand(device: str, wanted: list[str], damaged: list[str]) -> list[tuple[Arena, int]]:
        from zhcache.handover import attach
        from zhcache.protocol.residency import AttachRequest
        from zhcache.waiting import shown

        request = AttachRequest(
            lease=lease.granted.id, device=device, components=wanted, damaged=damaged
        )
        with shown(sys.stderr) as on_progress:
            return attach(client.socket, request, on_progress, until=until)

    with paused_collector():
        from zhcache.pipeline import reading

        is_mapped = lease.granted.host != "arenas" and there.weights is None
        if not isinstance(place, str):
            from zhcache.pipeline import spread

            where = spread.homes(place)
            pipeline = reading.over_places(
                there.folder, where, options, hand, there.weights, is_mapped=is_mapped
            )
            there.name_in(pipeline)
            return spread.arrange(pipeline, place)
        if "device_map" in options and is_mapped:
            return reading.over_files(there.folder, options)
        device = reading.device_of(place)
        if device.type == "cuda" or not is_mapped:
            home = device if device.type in ("cpu", "cuda") else reading.device_of("cpu")
            pipeline = reading.over_arenas(there.folder, home, options, hand, there.weights)
            there.name_in(pipeline)
            return pipeline if home == device else pipeline.to(device)
        pipeline = reading.over_files(there.folder, options)
        # It is on the CPU already; asking again makes diffusers warn about half precision there.
        return pipeline if device.type == "cpu" else pipeline.to(device)


def _tune(pipeline: Any, attention: str | None, compile: bool) -> None:
    if attention is None and not compile:
        return
    from zhcache.pipeline import tuning

    if attention is not None:
        tuning.attend(pipeline, attention)
    if compile:
        tuning.compile_blocks(pipeline)


__all__ = ["load_pipeline", "release"]
