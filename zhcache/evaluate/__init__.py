"""How good pictures are, and how far apart.

``fid``, ``kid``, ``cmmd``, ``psnr``, ``ssim``, ``distance``, ``clip_score`` and ``compare`` are
loaded when they are first used; importing this costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zhcache.evaluate.bootstrap import interval
    from zhcache.evaluate.measure import Interval, Measure
    from zhcache.evaluate.measures import (
        clip_score,
        cmmd,
        compare,
        distance,
        fid,
        kid,
        psnr,
        ssim,
    )

_MEASURES = ("clip_score", "cmmd", "compare", "distance", "fid", "kid", "psnr", "ssim")
_HOME = {
    **dict.fromkeys(_MEASURES, "zhcache.evaluate.measures"),
    "Interval": "zhcache.evaluate.measure",
    "Measure": "zhcache.evaluate.measure",
    "interval": "zhcache.evaluate.bootstrap",
}

__all__ = [
    "Interval",
    "Measure",
    "clip_score",
    "cmmd",
    "compare",
    "distance",
    "fid",
    "interval",
    "kid",
    "psnr",
    "ssim",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'zhcache.evaluate' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
