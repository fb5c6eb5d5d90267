"""Other pipeline classes of diffusers over the components of one that is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from zhcache.errors import UsageError
from zhcache.pipeline.named import of_diffusers


def pipeline_class(name: object) -> type:
    """Returns the pipeline class of diffusers that is called ``name``.

    Raises:
        UsageError: There is none.
    """
    found = of_diffusers(name)
    if inspect.isclass(found) and issubclass(found, DiffusionPipeline):
        return found
    raise UsageError(
        "diffusers {version} has no pipeline {name}",
        hint="pipelines with code of their own are not run here; load them with mode='attach'",
        version=diffusers.__version__,
        name=repr(name)[:80],
    )


def sibling(kind: type, own: Any, more: Mapping[str, Any] | None = None) -> Any:
    """Returns a pipeline of class ``kind`` over the components of ``own``.

    Args:
        kind: A pipeline class.
        own: A pipeline.
        more: Components that ``own`` has not, or that take the place of its.

    Raises:
        UsageError: It needs components that are not there, or takes none of a name in ``more``.
    """
    wanted: dict[str, Any] = dict(inspect.signature(kind.__init__).parameters)
    given = {**dict(own.config), **own.components, **(more or {})}
    chosen = {name: given[name] for name in wanted if name in given}
    optional = set(getattr(kind, "_optional_components", ()))
    if unknown := sorted((more or {}).keys() - wanted.keys()):
        raise UsageError(
            "{kind} takes no argument {names}",
            hint="it takes {known}",
            kind=kind.__name__,
            names=", ".join(unknown),
            known=", ".join(list(wanted)[1:]),
        )
    missing = [
        name
        for name, one in list(wanted.items())[1:]
        if chosen.get(name) is None
        and one.default is inspect.Parameter.empty
        and name not in optional
        and one.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    if missing:
        raise UsageError(
            "{kind} needs {names}, which this snapshot does not have",
            kind=kind.__name__,
            names=", ".join(missing),
        )
    return kind(**chosen)
