"""Pipelines for a node's queue: images of one colour, of models that there are slots for."""

from __future__ import annotations

import threading
from collections import OrderedDict

from PIL import Image

from zhcache.cluster.task import Model, Task
from zhcache.errors import Cancelled
from zhcache.resident.result import Result


class Studio:
    """Stands for a daemon: what it has warm, what it loaded, what it drew.

    Args:
        slots: Models that fit; the one longest unused is let go for another.

    Attributes:
        loads: Models in the order they were loaded.
        opened: Models in the order they were opened, by whichever lane.
        drawn: Seeds in the order they were drawn.
        go_on: Calls end only while it is set; it is, unless a test clears it.
        may_open: Pipelines open only while it is set; likewise.
        opening: Released once for each pipeline that is being opened.
        is_stuck: Whether a call was neither let go on nor ended.
        begun: Released once for each call that has begun.
        errors: Raised by the next calls, one each; None answers.
    """

    def __init__(self, slots: int = 100) -> None:
        self._slots = slots
        self._warm: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self.loads: list[str] = []
        self.drawn: list[int] = []
        self.errors: list[BaseException | None] = []
        self.released: list[str] = []
        self.opened: list[str] = []
        self.is_stuck = False
        self.go_on = threading.Event()
        self.go_on.set()
        self.may_open = threading.Event()
        self.may_open.set()
        self.opening = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def open(self, model: Model, device: str) -> Pipe:
        """Returns a pipeline, as ``lane.Open`` has it."""
        self.opened.append(model.key)
        self.opening.release()
        assert self.may_open.wait(20)
        self.use(model.key)
        return Pipe(self, model)

    def use(self, key: str) -> None:
        """Loads a model, unless it is warm."""
        with self._lock:
            if key not in self._warm:
                self.loads.append(key)
            self._warm[key] = None
            self._warm.move_to_end(key)
            while len(self._warm) > self._slots:
                self._warm.popitem(last=False)

    def warm(self) -> frozenset[str]:
        """Returns what is warm, as ``node.Warm`` has it."""
        with self._lock:
            return frozenset(self._warm)


class Pipe:
    """Called as a resident pipeline is."""

    def __init__(self, studio: Studio, model: Model) -> None:
        self._studio = studio
        self._model = model
        self._is_released = False
        self.commit = model.revision or "c" * 40

    def __call__(self, *, prompt: str, seed: int, width: int = 8, height: int = 8) -> Result:
        self._studio.use(self._model.key)
        self._studio.begun.release()
        if not self._studio.go_on.wait(20):
            self._studio.is_stuck = True
        if self._is_released:
            raise Cancelled("released during the call")
        if self._studio.errors and (error := self._studio.errors.pop(0)) is not None:
            raise error
        self._studio.drawn.append(seed)
        return Result("Out", {"images": [Image.new("RGB", (width, height), (seed % 256, 0, 0))]})

    def release(self) -> None:
        self._is_released = True
        self._studio.released.append(self._model.key)
        # It ends the call that runs, as a resident pipeline's does.
        self._studio.go_on.set()


def task(repo: str = "org/a", seed: int = 0, **arguments: object) -> Task:
    """Returns a task."""
    return Task(model=Model(repo=repo), prompt="x", seed=seed, arguments=dict(arguments))
