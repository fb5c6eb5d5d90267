"""What ``load_pipeline`` takes, checked before anything is fetched or imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from zhcache import arguments
from zhcache.errors import UsageError
from zhcache.pipeline.placing import PLANNED
from zhcache.protocol.names import parse_variant

_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "token", "use_auth_token")
_NEEDS = ("torch", "diffusers", "transformers", "accelerate")


def check_kinds(repo: object, variant: object, revision: object, timeout: object) -> None:
    """Checks what is passed on to the daemon.

    Raises:
        UsageError: One cannot be meant.
    """
    is_time = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and timeout >= 0
    told = {
        "repo": (repo, isinstance(repo, str), "OWNER/NAME"),
        "variant": (variant, variant is None or isinstance(variant, str), "a name or None"),
        "revision": (revision, revision is None or isinstance(revision, str), "a name or None"),
        "timeout": (timeout, timeout is None or is_time, "seconds from 0 on, or None"),
    }
    arguments.check(told)


def check_options(
    variant: str | None,
    mode: str,
    placement: str,
    options: Mapping[str, Any],
) -> None:
    """Checks what this release has.

    Raises:
        UsageError: It does not have it, or an option means nothing here.
    """
    for name in ("torch_dtype", "dtype"):
        if name in options:
            raise UsageError(
                "{name} is not taken here: a cast would copy weights that are shared",
                hint='leave it out for the published precision, or take variant="fp16" or another',
                name=name,
            )
    for name in _HUB_OPTIONS:
        if name in options:
            raise UsageError(
                "{name} means nothing here: the daemon fetches",
                hint="configure sources and their tokens in config.toml",
                name=name,
            )
    if variant is not None:
        parse_variant(variant)
    known = {
        "mode": (mode, ("attach", "resident")),
        "placement": (placement, ("auto", "single", "replicate", "parallel", *PLANNED)),
    }
    for name, (value, allowed) in known.items():
        if value not in allowed:
            raise _not_yet(f"{name}={value!r}", " | ".join(repr(one) for one in allowed))


def check_words(words: object) -> tuple[str, ...]:
    """Returns ``chinese_keep`` as it is passed on.

    Raises:
        UsageError: It is no list of words.
    """
    if isinstance(words, (list, tuple)) and all(isinstance(one, str) and one for one in words):
        return tuple(words)
    raise UsageError(
        "{name}={value} cannot be meant",
        hint="it takes {allowed}",
        name="chinese_keep",
        value=repr(words)[:80],
        allowed="a list of words",
    )


def places(device: object, mode: str, placement: str) -> tuple[list[str], bool]:
    """Returns the devices that are named, and whether workers of the daemon's make the images.

    Raises:
        UsageError: They are none, or several of which one is to have all.
    """
    # A torch.device is known by its name: in resident mode there is no torch to ask.
    is_one = isinstance(device, str) or type(device).__module__ == "torch"
    named = [device] if is_one else device
    if not isinstance(named, (list, tuple)) or not named or not all(map(_is_device, named)):
        raise UsageError(
            "{name}={value} cannot be meant",
            hint="it takes {allowed}",
            name="device",
            value=repr(device)[:80],
            allowed="'auto' | 'cpu' | 'cuda' | 'cuda:N' | a list of them",
        )
    devices = [str(one) for one in named]
    if placement == "replicate" or (placement == "auto" and mode == "resident"):
        return devices, len(devices) > 1 or placement == "replicate"
    if placement == "parallel":
        if len(devices) == 1:
            raise UsageError(
                "one device has no other to share an image with",
                hint='name several: device=["cuda:0", "cuda:1"], or leave placement out',
            )
        return devices, True
    if len(devices) > 1 and placement == "single":
        raise UsageError(
            "{count} devices are named, and all would be on one",
            hint='take placement="replicate", a worker on each, "parallel", "split", or name one',
            count=len(devices),
        )
    return devices, False


def _is_device(one: object) -> bool:
    return isinstance(one, str) or type(one).__module__ == "torch"


def _not_yet(option: str, allowed: str) -> UsageError:
    return UsageError(
        "{option} is not in this release of zhcache",
        hint="it takes {allowed}",
        option=option,
        allowed=allowed,
    )


def check_parts() -> None:
    """Checks what is installed: before a download of gigabytes, not after.

    Raises:
        UsageError: Something is missing.
    """
    lacking = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(
            "load_pipeline needs {missing} in this environment",
            hint="pip install 'zhcache[torch]'",
            missing=", ".join(lacking),
        )


def check_device(name: str) -> None:
    """Checks that a device is there; before a download as well.

    Raises:
        UsageError: It is not.
    """
    # The CPU is there, and torch is slow to import.
    if name in ("auto", "cpu"):
        return
    from zhcache.pipeline.quick import paused_collector

    with paused_collector():
        from zhcache.pipeline import reading

        reading.device_of(name)
