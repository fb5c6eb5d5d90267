"""What a pipeline in a folder takes: weights by their headers, calls by its configuration."""

from __future__ import annotations

import json
from pathlib import Path

from zhcache.pipeline.published import components, published, tensors
from zhcache.placement import activation
from zhcache.placement.activation import Config, Needs
from zhcache.placement.sizes import Form

_DENOISERS = ("transformer", "unet")


def form(folder: Path, variant: str | None) -> Form:
    """Returns what the weights in a pipeline's folder take.

    Raises:
        UsageError: It is no pipeline.
        IntegrityError: Its index or a header cannot be read.
    """
    parts: dict[str, int] = {}
    largest = 0
    for name, files in published(folder).files.items():
        parts[name] = sum(file.stat().st_size for file in files)
        for file in files:
            largest = max(largest, *(tensor.bytes for tensor in tensors(file)), 0)
    return Form(variant, parts, largest)


def needs(folder: Path) -> Needs:
    """Returns what calls take at the size the pipeline was made for.

    Raises:
        UsageError: It is no pipeline.
        IntegrityError: Its index or a header cannot be read.
    """
    dtypes = published(folder).dtypes
    kinds = components(folder)
    name = next((name for name in _DENOISERS if _config(folder / name)), "")
    kind = kinds[name][1] if name in kinds else ""
    denoiser = _config(folder / name) if name else {}
    return activation.needs(
        denoiser,
        _config(folder / "vae"),
        kind=kind,
        width=_width(dtypes.get(name)),
        vae_width=_width(dtypes.get("vae")),
    )


def _width(dtype: str | None) -> int:
    return 4 if dtype == "float32" else 2


def _config(component: Path) -> Config:
    try:
        found = json.loads((component / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return activation.known(found)
