"""One call of a resident pipeline: values in, the pipeline's own call, values out."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zhcache.chinese.embeds import apply
from zhcache.chinese.own import readings
from zhcache.errors import UsageError
from zhcache.protocol.residency import Call, Returned
from zhcache.resident.decode import Decoder
from zhcache.resident.encode import Encoder
from zhcached.workers.failures import Stopped
from zhcached.workers.loading import Held

CALLBACK = "callback_on_step_end"
_OURS = (CALLBACK, f"{CALLBACK}_tensor_inputs")

OnStep = Callable[[int, int, float], None]


def parameters(pipeline: Any) -> list[str]:
    """Returns the names that a pipeline's call takes, in their order."""
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    signature = inspect.signature(pipeline.__call__)
    return [name for name, one in signature.parameters.items() if one.kind not in variadic]


def has_one_net(pipeline: Any) -> bool:
    """Whether it has one ControlNet, to which a list of images is one for each prompt.

    To several (``MultiControlNetModel``) it is one for each net, to a union one for each mode.
    """
    kind = type(getattr(pipeline, "controlnet", None)).__name__
    return "ControlNet" in kind and "Multi" not in kind and "Union" not in kind


def perform(
    held: Held,
    call: Call,
    fds: Sequence[int],
    *,
    is_cancelled: Callable[[], bool],
    on_step: OnStep,
) -> tuple[Returned, list[int]]:
    """Runs ``call``; returns the answer and the descriptors that go beside it.

    Args:
        held: The pipeline.
        call: What is asked.
        fds: What came beside it; stays the caller's.
        is_cancelled: Asked at each step.
        on_step: Told step, number of steps, timestep.

    Raises:
        UsageError: An argument that cannot be meant.
        Stopped: ``is_cancelled`` said so.
        Exception: Whatever the pipeline raised.
    """
    began = time.monotonic()
    if is_cancelled():
        raise Stopped
    pipeline = held.as_class(call.pipeline)
    inside = Decoder(list(fds), device=held.device)
    arguments = {name: inside.decode(value) for name, value in call.arguments.items()}
    _check(arguments, parameters(pipeline), pipeline)
    conditions = None if call.conditions is None else inside.decode(call.conditions)
    own = readings(pipeline, arguments, conditions)
    if conditions is not None:
        arguments = apply(pipeline, arguments, conditions)
    if call.seed is not None:
        arguments["generator"] = _generators(call.seed, arguments, pipeline)
    held.schedulers.renew(pipeline, inside.decode(call.scheduler))
    _follow(pipeline, arguments, is_cancelled, on_step)
    try:
        output = pipeline(**arguments)
        out = Encoder()
        class_name, fields = _fields(output)
        returned = Returned(
            id=call.id,
            class_name=class_name,
            fields={name: out.encode(value, name) for name, value in fields.items()},
            generators=[out.encode(one, "generator") for one in inside.generators],
            own=own,
            seconds=time.monotonic() - began,
        )
        return returned, out.finish()
    finally:
        held.weights.restore()


def _check(arguments: dict[str, Any], known: list[str], pipeline: Any) -> None:
    unknown = [name for name in arguments if name not in known or name in _OURS]
    if unknown:
        raise UsageError(
            "{kind} takes no argument {names}",
            hint="it takes {known}",
            kind=type(pipeline).__name__,
            names=", ".join(unknown),
            known=", ".join(name for name in known if name not in _OURS),
        )


def _generators(seed: int | list[int], arguments: dict[str, Any], pipeline: Any) -> Any:
    if arguments.get("generator") is not None:
        raise UsageError("seed and generator exclude each other", hint="leave one out")
    if "generator" not in parameters(pipeline):
        raise UsageError("{kind} takes no seed", kind=type(pipeline).__name__)
    if isinstance(seed, list):
        return [torch.Generator("cpu").manual_seed(one) for one in seed]
    return torch.Generator("cpu").manual_seed(seed)


def _follow(
    pipeline: Any, arguments: dict[str, Any], is_cancelled: Callable[[], bool], on_step: OnStep
) -> None:
    """Has every step of the coming call seen, by the pipeline's callback or else its scheduler."""

    def seen(step: int, timestep: Any) -> None:
        if is_cancelled():
            raise Stopped
        on_step(step, _total(pipeline), float(timestep))

    if CALLBACK in parameters(pipeline):
        arguments[CALLBACK] = lambda _, step, timestep, __: seen(step, timestep) or {}
        if _OURS[1] in parameters(pipeline):
            arguments[_OURS[1]] = []
        return
    scheduler = getattr(pipeline, "scheduler", None)
    if scheduler is None:
        return
    plain, done = scheduler.step, iter(range(2**31))

    def step(*values: Any, **named: Any) -> Any:
        result = plain(*values, **named)
        timestep = named["timestep"] if "timestep" in named else values[1]
        seen(next(done), timestep)
        return result

    # On this object alone, which lives as long as the call.
    scheduler.step = step


def _total(pipeline: Any) -> int:
    known = getattr(pipeline, "_num_timesteps", None)
    if isinstance(known, int):
        return known
    timesteps = getattr(getattr(pipeline, "scheduler", None), "timesteps", None)
    return len(timesteps) if timesteps is not None else 0


def _fields(output: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(output, tuple):
        return "tuple", {"items": list(output)}
    if isinstance(output, dict):
        # A dataclass of diffusers: as a dictionary it leaves out what is None.
        names = getattr(type(output), "__dataclass_fields__", None) or output.keys()
        return type(output).__name__, {name: getattr(output, name) for name in names}
    return "tuple", {"items": [output]}
