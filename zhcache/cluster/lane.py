"""One device of a node: the resident pipelines opened for it, one call at a time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from zhcache.cluster.task import Model, Picture, Task
from zhcache.resident.result import first_image, is_black

Open = Callable[[Model, str], Any]
"""Returns what is called as a resident pipeline is, for a model on a device."""

KEPT = 16
"""Pipelines that a lane keeps open: leases, which cost a connection each. The daemon alone decides
whose weights stay; a lease on what it let go brings it back at the next call."""


def resident(model: Model, device: str) -> Any:
    """Opens a model's resident pipeline in this machine's daemon; fetches it first if need be."""
    from zhcache.resident.open import open_resident

    return open_resident(
        model.repo,
        revision=model.revision,
        variant=model.variant,
        chinese=model.chinese,
        device=device,
    )


class Lane:
    """The pipelines of one device. Of one thread, but for ``models``, ``close`` and ``is_warm``.

    Args:
        device: As ``load_pipeline`` takes it.
        open_pipeline: How a pipeline is opened.
    """

    def __init__(self, device: str, open_pipeline: Open = resident) -> None:
        self.device = device
        self._open = open_pipeline
        self._pipes: OrderedDict[Model, Any] = OrderedDict()
        self._is_closed = False

    @property
    def models(self) -> set[str]:
        """Keys of the models that are open."""
        return {model.key for model in list(self._pipes)}

    def opened(self, model: Model) -> float:
        """Opens a model's pipeline, where it is not open yet; returns how many seconds that took.

        Raises:
            ZhcacheError: What the daemon reported.
        """
        if model in self._pipes:
            self._pipes.move_to_end(model)
            return 0.0
        began = time.monotonic()
        self._pipes[model] = self._open(model, self.device)
        if self._is_closed:
            self.close()
        while len(self._pipes) > KEPT:
            self._pipes.popitem(last=False)[1].release()
        return time.monotonic() - began

    def draw(self, task: Task, node: str) -> Picture:
        """Makes a task's image with a pipeline that is open.

        Raises:
            ZhcacheError: What the call ended with.
        """
        pipe = self._pipes[task.model]
        began = time.monotonic()
        result = pipe(prompt=task.prompt, seed=task.seed, **task.arguments)
        image = first_image(result)
        return Picture(
            mode=image.mode,
            size=image.size,
            pixels=image.tobytes(),
            commit=pipe.commit,
            node=node,
            seconds=time.monotonic() - began,
            nsfw=is_black(result),
        )

    def close(self) -> None:
        """Ends the leases, and with them a call that runs."""
        self._is_closed = True
        for pipe in list(self._pipes.values()):
            pipe.release()
