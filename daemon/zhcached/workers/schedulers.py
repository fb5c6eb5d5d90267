"""Schedulers of a resident pipeline: a new one for each call, and others by name.

A scheduler keeps the state of the call it runs, and one that was interrupted is left in the
middle. The one that was loaded is therefore never run: each call gets a copy.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.import_utils import DummyObject

from zhcache.errors import UsageError
from zhcache.pipeline.named import of_diffusers
from zhcache.resident.values import SchedulerChoice

MAX_TIMESTEPS = 1_000_000
"""Of training; schedulers make tables of this length when they are built."""


class Schedulers:
    """The schedulers a pipeline was loaded with, most often one."""

    def __init__(self, pipeline: Any) -> None:
        self._pristine = {
            name: part
            for name, part in pipeline.components.items()
            if isinstance(part, SchedulerMixin)
        }

    def renew(self, pipeline: Any, choice: str | SchedulerChoice | None) -> None:
        """Gives ``pipeline`` schedulers that no call has used, the chosen one among them.

        Raises:
            UsageError: There is no such scheduler, or this pipeline has none to replace.
        """
        for name, part in self._pristine.items():
            if name in pipeline.components:
                setattr(pipeline, name, copy.deepcopy(part))
        if choice is None:
            return
        own = self._pristine.get("scheduler")
        if own is None:
            raise UsageError(
                "{kind} has no scheduler that could be replaced", kind=type(pipeline).__name__
            )
        pipeline.scheduler = _made(choice, own)


def _made(choice: object, own: Any) -> Any:
    if isinstance(choice, str):
        choice = SchedulerChoice(choice)
    if not isinstance(choice, SchedulerChoice):
        raise UsageError(
            "scheduler takes the name of a class of diffusers, or a scheduler of it",
            hint="for example scheduler='EulerDiscreteScheduler'",
        )
    kind = named(choice.class_name, own)
    config = dict(own.config if choice.config is None else choice.config)
    steps = config.get("num_train_timesteps")
    if steps is not None and not (isinstance(steps, int) and 0 < steps <= MAX_TIMESTEPS):
        raise UsageError(
            "a scheduler's num_train_timesteps is 1 to {limit}, not {steps}",
            limit=MAX_TIMESTEPS,
            steps=repr(steps)[:40],
        )
    return kind.from_config(config)


def named(name: object, own: Any) -> Any:
    """Returns the scheduler class of diffusers that is called ``name``.

    Args:
        name: What was asked for.
        own: The pipeline's scheduler, whose kin an error names.

    Raises:
        UsageError: There is none.
    """
    found = of_diffusers(name)
    if inspect.isclass(found) and issubclass(found, SchedulerMixin):
        return found
    # What diffusers has in place of a class whose libraries are not all installed.
    if isinstance(found, DummyObject) and "Scheduler" in found.__name__:
        raise UsageError(
            "the scheduler {name} needs {libraries}, and not all of it is installed",
            hint="pip install it where the daemon is installed, or take another scheduler",
            name=found.__name__,
            libraries=", ".join(getattr(found, "_backends", ())),
        )
    kin = sorted({one.__name__ for one in own.compatibles} | {type(own).__name__})
    raise UsageError(
        "diffusers has no scheduler {name}",
        hint="those that fit this pipeline: {known}",
        name=repr(name)[:80],
        known=", ".join(kin),
    )
