"""What a user calls a resident pipeline with, as the message that travels. Pure."""

from __future__ import annotations

import importlib.util
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from zhcache.errors import UsageError
from zhcache.protocol.residency import Call
from zhcache.resident.encode import Encoder

CALLBACK = "callback_on_step_end"
TENSORS = "callback_on_step_end_tensor_inputs"
OURS = ("seed", "scheduler", "batch", CALLBACK)
_SEEDS = range(-(2**63), 2**64)
_NEEDS = {"np": "numpy", "pt": "torch", "latent": "torch"}


def named(given: Sequence[Any], arguments: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Returns all arguments by name, those given by position among them.

    Args:
        given: By position.
        arguments: By name.
        known: The pipeline's parameters in their order.

    Raises:
        UsageError: There are too many, or one is given twice.
    """
    if len(given) > len(known):
        raise UsageError(
            "the pipeline takes {limit} arguments, {count} were given",
            limit=len(known),
            count=len(given),
        )
    by_position = dict(zip(known, given, strict=False))
    if twice := sorted(by_position.keys() & arguments.keys()):
        raise UsageError("{name} is given twice", hint="give it once", name=twice[0])
    return {**by_position, **arguments}


def check(arguments: dict[str, Any], known: Sequence[str]) -> None:
    """Checks arguments against the pipeline's parameters.

    Raises:
        UsageError: One is unknown, or means what only a pipeline in this process can do.
    """
    callback = arguments.get(CALLBACK)
    if callback is not None and not callable(callback):
        raise UsageError(
            "{name} takes a function, not a {kind}", name=CALLBACK, kind=type(callback).__name__
        )
    if arguments.get(TENSORS):
        raise UsageError(
            "{name} asks for tensors of each step, which stay in the worker",
            hint="leave it out, or load the pipeline with mode='attach'",
            name=TENSORS,
        )
    unknown = [name for name in arguments if name not in known and name not in (*OURS, TENSORS)]
    if unknown:
        raise UsageError(
            "the pipeline takes no argument {names}",
            hint="it takes {known}",
            names=", ".join(unknown),
            known=", ".join([name for name in known if name not in (CALLBACK, TENSORS)]),
        )


def check_output(wanted: object) -> None:
    """Checks that what comes back can be held here, before a worker spends its time on it.

    Raises:
        UsageError: It takes a library that is not installed.
    """
    library = _NEEDS.get(wanted) if isinstance(wanted, str) else None
    if library is None:
        return
    try:
        is_here = importlib.util.find_spec(library) is not None
    except (ImportError, ValueError):
        is_here = False
    if not is_here:
        raise UsageError(
            "output_type={wanted} needs {library} in this environment",
            hint="install it, or ask for output_type='pil'",
            wanted=repr(wanted),
            library=library,
        )


def seeds(value: Any) -> int | list[int] | None:
    """Returns ``seed=`` as it travels: one whole number, or one for each image.

    Args:
        value: A number; or several, as a list, a range, an array or a tensor ``(images,)``.

    Raises:
        UsageError: It is something else, or torch takes no such seed.
    """
    if value is None:
        return None
    if isinstance(value, (list, tuple, range)) or len(getattr(value, "shape", ())) == 1:
        return [_seed(one) for one in value]
    return _seed(value)


def encoded(
    number: int,
    arguments: Mapping[str, Any],
    pipeline: str | None,
    encoder: Encoder,
    conditions: Mapping[str, Any] | None = None,
) -> Call:
    """Returns checked arguments as a call; ``encoder`` has what goes beside it.

    Args:
        number: The call's.
        arguments: By name.
        pipeline: Another class over the same components, or None.
        encoder: Encodes them.
        conditions: As ``zhcache.chinese.conditions`` has them, or None.

    Raises:
        UsageError: One of them cannot be sent.
    """
    ours = ("seed", "scheduler", CALLBACK, TENSORS)
    plain = {name: v for name, v in arguments.items() if name not in ours}
    return Call(
        id=number,
        arguments={name: encoder.encode(value, name) for name, value in plain.items()},
        seed=seeds(arguments.get("seed")),
        scheduler=encoder.encode(arguments.get("scheduler"), "scheduler"),
        wants_steps=arguments.get(CALLBACK) is not None,
        pipeline=pipeline,
        conditions=encoder.encode(None if conditions is None else dict(conditions), "conditions"),
    )


def _seed(value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number not in _SEEDS:
        raise UsageError(
            "seed takes whole numbers from -2**63 to 2**64 - 1, one or a list of one for each"
            " image, not {value}",
            value=repr(value)[:80],
        )
    return number
