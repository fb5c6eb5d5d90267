"""``zhcache.load_pipeline``: a real diffusers pipeline over leased weights, or a worker's."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zhcache.client import Client
from zhcache.errors import NotFound, UsageError
from zhcache.lease import Lease
from zhcache.pipeline.closed import Readable
from zhcache.pipeline.leased import Held, bind, release

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from zhcache.protocol.residency import Arena

_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "token", "use_auth_token")
_NEEDS = ("torch", "diffusers", "transformers", "accelerate")


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
        variant: None, as published.
        revision: Branch, tag or commit; None is the default branch.
        mode: ``"attach"``: in this process. ``"resident"``: a stand-in that is called the same way
            and has a warm worker do it; needs no torch here.
        device: ``"auto"`` is CUDA where there is one, else the CPU; or a torch device's name.
        placement: ``"auto"`` or ``"single"``: all on ``device``.
        chinese: ``"auto"`` or None: prompts go to the pipeline's own text encoder.
        timeout: Seconds to wait for a download or for room; None waits as long as the daemon makes
            progress.
        attention: A backend of diffusers' ``set_attention_backend``.
        compile: Whether blocks that repeat are compiled at their first use.
        **from_pretrained_kwargs: Passed on: ``scheduler=``, ``safety_checker=None`` and so on.

    Raises:
        UsageError: An option that cannot be meant, or that this release does not have.
        NotFound: No such repository or revision.
        Busy: ``timeout`` is over; the download goes on.
        VersionMismatch: The daemon's diffusers makes other modules of the files than this one.
        ZhcacheError: What else the daemon reported.
    """
    _check_kinds(repo, revision, timeout)
    _check_options(variant, mode, placement, chinese, from_pretrained_kwargs)
    if mode == "resident":
        from zhcache.resident.open import open_resident

        stand_in: Any = open_resident(
            repo,
            variant=variant,
            revision=revision,
            device=_single(device),
            chinese=chinese,
            timeout=timeout,
            attention=attention,
            compile=compile,
            options=from_pretrained_kwargs,
        )
        return stand_in
    named = _single(device)
    if "device_map" in from_pretrained_kwargs and named != "auto":
        raise UsageError("device and device_map exclude each other", hint="leave one out")
    _check_parts()
    _check_device(named)
    until = None if timeout is None else time.monotonic() + timeout
    client = Client()
    try:
        lease, there = _lease(client, repo, revision, until)
    except BaseException:
        client.close()
        raise
    held = Held(client, lease)
    try:
        with there:
            pipeline = _read(client, lease, there, named, from_pretrained_kwargs, until)
        _tune(pipeline, attention, compile)
    except BaseException:
        held.end()
        raise
    return bind(pipeline, held)


def _read(
    client: Client,
    lease: Lease,
    there: Readable,
    device_name: str,
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
        if "device_map" in options and is_mapped:
            return reading.over_files(there.folder, options)
        device = reading.device_of(device_name)
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


def _lease(
    client: Client, repo: str, revision: str | None, until: float | None
) -> tuple[Lease, Readable]:
    try:
        lease = client.lease(repo, revision=revision)
    except NotFound:
        pass
    else:
        there = Readable(client.socket, lease)
        if not there.gaps():
            return lease, there
        there.close()
        lease.end()
    left = None if until is None else max(until - time.monotonic(), 0.0)
    result = _fetch(client, repo, revision, left)
    # By commit: the branch may have moved on since, and what was fetched is what is read.
    lease = client.lease(result.repo, revision=result.commit)
    return lease, Readable(client.socket, lease)


def _fetch(client: Client, repo: str, revision: str | None, timeout_s: float | None) -> Any:
    from zhcache.progress import display

    with display(is_quiet=not sys.stderr.isatty()) as shown:
        return client.prefetch(
            repo,
            revision=revision,
            only_pipeline=True,
            on_progress=shown.update,
            timeout_s=timeout_s,
        )


def _check_kinds(repo: object, revision: object, timeout: object) -> None:
    is_time = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and timeout >= 0
    wrong = {
        "repo": (repo, isinstance(repo, str), "OWNER/NAME"),
        "revision": (revision, revision is None or isinstance(revision, str), "a name or None"),
        "timeout": (timeout, timeout is None or is_time, "seconds from 0 on, or None"),
    }
    for name, (value, is_right, allowed) in wrong.items():
        if not is_right:
            raise UsageError(
                "{name}={value} cannot be meant",
                hint="it takes {allowed}",
                name=name,
                value=repr(value)[:80],
                allowed=allowed,
            )


def _check_options(
    variant: str | None,
    mode: str,
    placement: str,
    chinese: str | None,
    options: Mapping[str, Any],
) -> None:
    for name in ("torch_dtype", "dtype"):
        if name in options:
            raise UsageError(
                "{name} is not taken here: a cast would copy weights that are shared",
                hint="leave it out for the published precision; a later release takes variant=",
                name=name,
            )
    for name in _HUB_OPTIONS:
        if name in options:
            raise UsageError(
                "{name} means nothing here: the daemon fetches",
                hint="configure sources and their tokens in config.toml",
                name=name,
            )
    known = {
        "variant": (variant, (None,)),
        "mode": (mode, ("attach", "resident")),
        "placement": (placement, ("auto", "single")),
        "chinese": (chinese, ("auto", None)),
    }
    for name, (value, allowed) in known.items():
        if value not in allowed:
            raise _not_yet(f"{name}={value!r}", " | ".join(repr(one) for one in allowed))


def _single(device: object) -> str:
    # A torch.device is known by its name: in resident mode there is no torch to ask.
    if isinstance(device, str) or type(device).__module__ == "torch":
        return str(device)
    if not isinstance(device, (list, tuple)):
        raise UsageError(
            "{name}={value} cannot be meant",
            hint="it takes {allowed}",
            name="device",
            value=repr(device)[:80],
            allowed="'auto' | 'cpu' | 'cuda' | 'cuda:N'",
        )
    raise _not_yet(f"device={list(device)!r}", "'auto' | 'cpu' | 'cuda' | 'cuda:N'")


def _not_yet(option: str, allowed: str) -> UsageError:
    return UsageError(
        "{option} is not in this release of zhcache",
        hint="it takes {allowed}",
        option=option,
        allowed=allowed,
    )


def _check_parts() -> None:
    # Asked before a download of gigabytes, not after.
    lacking = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(
            "load_pipeline needs {missing} in this environment",
            hint="pip install 'zhcache[torch]'",
            missing=", ".join(lacking),
        )


def _check_device(name: str) -> None:
    # Before a download as well. The CPU is there, and torch is slow to import.
    if name in ("auto", "cpu"):
        return
    from zhcache.pipeline.quick import paused_collector

    with paused_collector():
        from zhcache.pipeline import reading

        reading.device_of(name)


__all__ = ["load_pipeline", "release"]
