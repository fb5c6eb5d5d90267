"""Who makes the images of a batch: this machine, or a cluster. Both are asked in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from zhcache.cluster.node import Node, settled
from zhcache.cluster.order import Turns
from zhcache.cluster.task import Model, Picture, Task


class Crew(Protocol):
    """Makes images. Thread-safe.

    Attributes:
        width: Calls that are worth having under way at a time.
    """

    width: int

    @property
    def abreast(self) -> int | None:
        """Models that are worth having under way at a time; None: in the order they come."""
        ...

    def settle(self, model: Model) -> str:
        """Returns the commit that a model's revision means, for all calls of a batch."""
        ...

    def make(self, task: Task) -> Picture:
        """Makes one image, and waits for it.

        Raises:
            Exception: What ``retry.verdict`` judges.
        """
        ...

    def close(self) -> None:
        """Ends what it holds for the batch."""
        ...


class Here:
    """This machine's daemon, without Ray.

    Args:
        devices: As ``load_pipeline`` takes each.
        turns: How long the same models may go first.
    """

    _DEEP = 16
    abreast: int | None = None

    def __init__(self, devices: Sequence[str], turns: Turns | None = None) -> None:
        self._node = Node(devices, turns=turns)
        # All of them are known to the queue soon, so that it can put them into order.
        self.width = self._DEEP * len(devices)

    def settle(self, model: Model) -> str:
        """As ``Crew`` says."""
        return settled(model)

    def make(self, task: Task) -> Picture:
        """As ``Crew`` says."""
        return self._node.submit(task).result()

    def close(self) -> None:
        """As ``Crew`` says."""
        self._node.close()
