"""How many images a call asks for, and whether what it gives for each is as many. Pure.

Pipelines check this too, each in its own words and some not at all; these are the same for all,
name both numbers, and are said before a worker is troubled.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any

from zhcache.chinese.texts import is_text
from zhcache.errors import UsageError

NUMBER = "num_images_per_prompt"
"""A pipeline that takes it makes images; those that make a video's frames take another."""


def check(arguments: Mapping[str, Any], parameters: Collection[str]) -> None:
    """Checks the texts of a call, and the numbers of what it has for each prompt and each image.

    Args:
        arguments: By name, with ``seed``.
        parameters: What the pipeline takes, as far as is known.

    Raises:
        UsageError: A text is none, there is no prompt in the list, or two numbers differ.
    """
    for name, value in arguments.items():
        if is_text(name):
            _check_text(name, value)
    _check_lists(arguments)
    for name in (NUMBER, "num_inference_steps"):
        _check_number(name, arguments.get(name))
    if NUMBER in parameters:
        _check_each(arguments)


def prompts_of(arguments: Mapping[str, Any]) -> int:
    """Returns how many prompts there are; 0 where that cannot be told."""
    prompt = arguments.get("prompt")
    if isinstance(prompt, str):
        return 1
    if prompt is not None:
        return len(prompt) if isinstance(prompt, (list, tuple)) else 0
    return length_of(arguments.get("prompt_embeds"))


def times_of(arguments: Mapping[str, Any]) -> int:
    """Returns how many images there are of each prompt; 0 where it is no such number."""
    times = arguments.get(NUMBER)
    if times is None:
        return 1
    number = _whole(times)
    return 0 if number is None else max(number, 0)


def length_of(value: Any) -> int:
    """Returns how many entries a list, an array or a tensor has; 0 of anything else."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else 0
    return len(value) if isinstance(value, (list, tuple)) else 0


def _check_text(name: str, value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for place, one in enumerate(value):
            # Lists in lists and tables are some pipelines' own.
            if not isinstance(one, (str, list, tuple, dict)):
                raise _no_text(f"{name}[{place}]", one)
    elif value is not None and not isinstance(value, (str, dict)):
        raise _no_text(name, value)


def _no_text(name: str, value: Any) -> UsageError:
    return UsageError(
        "{name} is a {kind}, not a text",
        hint="give a string, or a list of strings",
        name=name,
        kind=type(value).__name__,
    )


def _check_lists(arguments: Mapping[str, Any]) -> None:
    prompt = arguments.get("prompt")
    if not isinstance(prompt, (list, tuple)):
        return
    if not prompt:
        raise UsageError(
            "prompt is an empty list: there is nothing to make", hint="give one prompt at least"
        )
    for name, value in arguments.items():
        if is_text(name) and isinstance(value, (list, tuple)) and len(value) != len(prompt):
            raise UsageError(
                "{name} is a list of {count}, prompt one of {prompts}",
                hint="give one for each prompt, or one text for all of them",
                name=name,
                count=len(value),
                prompts=len(prompt),
            )


def _check_number(name: str, value: Any) -> None:
    number = _whole(value)
    if number is not None and number < 1:
        raise UsageError(
            "{name}={value} cannot be meant",
            hint="it takes {allowed}",
            name=name,
            value=number,
            allowed="a whole number from 1 on",
        )


def _check_each(arguments: Mapping[str, Any]) -> None:
    prompts, times = prompts_of(arguments), times_of(arguments)
    for name in ("seed", "generator"):
        value = arguments.get(name)
        if not isinstance(value, (list, tuple)) or not prompts * times:
            continue
        if len(value) != prompts * times:
            raise UsageError(
                "{name} is a list of {count}, the number of images is {images}: {prompts} prompts"
                " by {times}",
                hint="give one for each image, or a single one for all of them",
                name=name,
                count=len(value),
                images=prompts * times,
                prompts=prompts,
                times=times,
            )


def _whole(value: Any) -> int | None:
    try:
        return operator.index(value)
    except TypeError:
        return None
