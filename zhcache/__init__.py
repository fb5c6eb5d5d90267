"""zhcache: one verified copy of every model, warm for every process, prompted in Chinese.

This is the client that user scripts import. Importing it costs no torch and no daemon: names are
loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from zhcache import cluster, evaluate, prompts
    from zhcache.client import Client
    from zhcache.errors import (
        AlreadyRunning,
        Busy,
        Cancelled,
        DaemonUnreachable,
        Gated,
        Incomplete,
        IntegrityError,
        NoSpace,
        NotFound,
        NotPermitted,
        Partial,
        SourcesFailed,
        UnsafeWeights,
        UsageError,
        VersionMismatch,
        ZhcacheError,
    )
    from zhcache.monitoring.monitor import monitor
    from zhcache.pipeline.load import load_pipeline, release
    from zhcache.pipeline.private import make_private
    from zhcache.protocol.messages import Snapshot
    from zhcache.single import path, plan, prefetch

_HOME = {
    "Client": "zhcache.client",
    "path": "zhcache.single",
    "plan": "zhcache.single",
    "prefetch": "zhcache.single",
    "Snapshot": "zhcache.protocol.messages",
    "load_pipeline": "zhcache.pipeline.load",
    "make_private": "zhcache.pipeline.private",
    "monitor": "zhcache.monitoring.monitor",
    "release": "zhcache.pipeline.load",
}
_ERRORS = (
    "AlreadyRunning",
    "Busy",
    "Cancelled",
    "DaemonUnreachable",
    "Gated",
    "Incomplete",
    "IntegrityError",
    "NoSpace",
    "NotFound",
    "NotPermitted",
    "Partial",
    "SourcesFailed",
    "UnsafeWeights",
    "UsageError",
    "VersionMismatch",
    "ZhcacheError",
)
_HOME.update(dict.fromkeys(_ERRORS, "zhcache.errors"))
_MODULES = ("cluster", "evaluate", "prompts")

__all__ = [
    "AlreadyRunning",
    "Busy",
    "Cancelled",
    "Client",
    "DaemonUnreachable",
    "Gated",
    "Incomplete",
    "IntegrityError",
    "NoSpace",
    "NotFound",
    "NotPermitted",
    "Partial",
    "Snapshot",
    "SourcesFailed",
    "UnsafeWeights",
    "UsageError",
    "VersionMismatch",
    "ZhcacheError",
    "cluster",
    "evaluate",
    "load_pipeline",
    "make_private",
    "monitor",
    "path",
    "plan",
    "prefetch",
    "prompts",
    "release",
]


def __getattr__(name: str) -> object:
    """Loads a public name at its first use, so that ``import zhcache`` stays cheap."""
    if name in _MODULES:
        return import_module(f"zhcache.{name}")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'zhcache' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
