"""What a user asks of a loaded pipeline's speed: an attention backend, compiled blocks."""

from __future__ import annotations

from typing import Any

import torch

from zhcache.errors import UsageError


def attend(pipeline: Any, backend: str) -> None:
    """Has a pipeline's models compute attention by ``backend``.

    Raises:
        UsageError: There is none of that name, or the pipeline's models do not let one choose.
    """
    for model in _models(pipeline, "set_attention_backend"):
        try:
            model.set_attention_backend(backend)
        except (ValueError, RuntimeError, ImportError) as error:
            raise UsageError(
                "attention backend {name}: {reason}", name=backend, reason=error
            ) from error
    if not any(_uses_backends(model) for model in _models(pipeline, "modules")):
        raise UsageError(
            "the models of {kind} do not let an attention backend be chosen",
            hint="leave attention= out: torch's own is used",
            kind=type(pipeline).__name__,
        )


def compile_blocks(pipeline: Any) -> None:
    """Has the repeated blocks of a pipeline's models compiled at their first use.

    Raises:
        UsageError: No model says which blocks repeat.
    """
    models = [m for m in _models(pipeline, "compile_repeated_blocks") if _repeats(m)]
    if not models:
        raise UsageError(
            "no model of {kind} says which of its blocks repeat, so nothing can be compiled",
            hint="leave compile= out",
            kind=type(pipeline).__name__,
        )
    for model in models:
        model.compile_repeated_blocks()


def _models(pipeline: Any, method: str) -> list[Any]:
    return [
        part
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module) and hasattr(part, method)
    ]


def _uses_backends(model: Any) -> bool:
    processors = (getattr(module, "processor", None) for module in model.modules())
    return any(hasattr(processor, "_attention_backend") for processor in processors)


def _repeats(model: Any) -> bool:
    names = getattr(model, "_repeated_blocks", None) or ()
    return any(type(module).__name__ in names for module in model.modules())
