"""``zhcache.load_pipeline``: a real diffusers pipeline over leased weights."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhcache.client import Client
from zhcache.completeness import gaps
from zhcache.errors import NotFound, UsageError
from zhcache.lease import Lease
from zhcache.pipeline.leased import Held, bind, release
from zhcache.pipeline.published import Published, published

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

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
    **from_pretrained_kwargs: Any,
) -> DiffusionPipeline:
    """Returns a diffusers pipeline whose weights stay leased while it lives.

    What is not in the store yet is fetched first, with progress on a terminal. The pipeline is
    read in the precision it was published in and without any network. It owns its lease: leaving
    ``with load_pipeline(...) as pipe:``, ``zhcache.release(pipe)`` and the end of the process each
    end it.

    Args:
        repo: ``OWNER/NAME``.
        variant: None, as published.
        revision: Branch, tag or commit; None is the default branch.
        mode: ``"attach"``: in this process.
        device: ``"auto"`` is CUDA where there is one, else the CPU; or a torch device's name.
        placement: ``"auto"`` or ``"single"``: all on ``device``.
        chinese: ``"auto"`` or None: prompts go to the pipeline's own text encoder.
        timeout: Seconds to wait for a download; None waits as long as the daemon makes progress.
        **from_pretrained_kwargs: Passed on: ``scheduler=``, ``safety_checker=None`` and so on.

    Raises:
        UsageError: An option that cannot be meant, or that this release does not have.
        NotFound: No such repository or revision.
        Busy: ``timeout`` is over; the download goes on.
        ZhcacheError: What else the daemon reported.
    """
    _check_options(variant, mode, placement, chinese, from_pretrained_kwargs)
    _check_device(device, from_pretrained_kwargs)
    _check_parts()
    client = Client()
    try:
        lease = _lease(client, repo, revision, timeout)
    except BaseException:
        client.close()
        raise
    held = Held(client, lease)
    try:
        pipeline = _read(lease.path, str(device), from_pretrained_kwargs)
    except BaseException:
        held.end()
        raise
    return bind(pipeline, held)


def _lease(client: Client, repo: str, revision: str | None, timeout_s: float | None) -> Lease:
    until = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        lease = client.lease(repo, revision=revision)
        if not gaps(lease.path):
            return lease
        lease.end()
    except NotFound:
        pass
    left = None if until is None else max(until - time.monotonic(), 0.0)
    result = _fetch(client, repo, revision, left)
    # By commit: the branch may have moved on since, and what was fetched is what is read.
    return client.lease(result.repo, revision=result.commit)


def _fetch(client: Client, repo: str, revision: str | None, timeout_s: float | None) -> Any:
    import sys

    from zhcache.progress import display

    with display(is_quiet=not sys.stderr.isatty()) as shown:
        return client.prefetch(
            repo,
            revision=revision,
            only_pipeline=True,
            on_progress=shown.update,
            timeout_s=timeout_s,
        )


def _read(folder: Path, device: str, options: Mapping[str, Any]) -> Any:
    form = published(folder)
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(
        str(folder),
        **{
            # Pickles run code when they are read.
            "use_safetensors": True,
            **options,
            "local_files_only": True,
            "variant": form.variant,
            _dtype_option(): _dtypes(form, torch),
        },
    )
    if "device_map" in options:
        return pipeline
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            "this torch sees no CUDA device, and {device} was asked for",
            hint="leave device out, or install the CUDA build of torch",
            device=device,
        )
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    # It is on the CPU already; asking again makes diffusers warn about half precision there.
    return pipeline if chosen == "cpu" else pipeline.to(chosen)


def _dtypes(form: Published, torch: Any) -> Any:
    """Returns one torch dtype, or one for each component where they were published differently."""
    default = getattr(torch, form.default)
    by_component = {name: getattr(torch, dtype) for name, dtype in form.dtypes.items()}
    if set(by_component.values()) <= {default}:
        return default
    return {**by_component, "default": default}


def _dtype_option() -> str:
    """Returns what this diffusers calls the option: an unknown one would only be warned about.

    ``torch_dtype`` became ``dtype`` in 0.40.
    """
    from diffusers import __version__

    major, minor = (int(part) for part in __version__.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 40) else "torch_dtype"


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
        "mode": (mode, ("attach",)),
        "placement": (placement, ("auto", "single")),
        "chinese": (chinese, ("auto", None)),
    }
    for name, (value, allowed) in known.items():
        if value not in allowed:
            raise _not_yet(f"{name}={value!r}", " | ".join(repr(one) for one in allowed))


def _check_device(device: str | Sequence[str], options: Mapping[str, Any]) -> None:
    if isinstance(device, (list, tuple)):
        raise _not_yet(f"device={list(device)!r}", "'auto' | 'cpu' | 'cuda' | 'cuda:N'")
    if "device_map" in options and device != "auto":
        raise UsageError("device and device_map exclude each other", hint="leave one out")


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


__all__ = ["load_pipeline", "release"]
