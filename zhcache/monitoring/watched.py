"""Which processes are watched: a process with all that it starts, or whatever is worth a line.

A process that was once seen below another belongs to it for good, also where its parent ends and
init takes it over. One whose parent ended before it was seen at all is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from zhcache.monitoring import procfs
from zhcache.monitoring.procfs import Reading

LEAST_CPU = 0.01
"""Of a core: what a process must use to be worth a line among everybody's."""
LEAST_MEMORY = 0.01
"""Of the machine's memory, likewise."""


class Watched(Protocol):
    """Finds the processes at each sample."""

    def look(self, elapsed_s: float, on_gpus: Collection[int]) -> dict[int, Reading]:
        """Returns the readings by pid.

        Args:
            elapsed_s: Since the look before; 0 at the first.
            on_gpus: Processes that the GPUs name.
        """
        ...


class Tree:
    """Processes and what they start.

    Looks at the head of each process of the machine once, when it is new, which costs next to
    nothing afterwards.

    Args:
        roots: Process ids.
    """

    def __init__(self, roots: Iterable[int]) -> None:
        self._members: dict[int, int] = {}
        self._seen: set[int] = set()
        for pid in roots:
            self.add(pid)

    def add(self, pid: int) -> None:
        """Takes in one more, if it is there, and what it starts."""
        if (reading := procfs.head(pid)) is not None:
            self._members[pid] = reading.started

    @property
    def is_gone(self) -> bool:
        """Whether none of it was there at the last look."""
        return not self._members

    def look(self, elapsed_s: float, on_gpus: Collection[int] = ()) -> dict[int, Reading]:
        """Returns the readings of those that are there."""
        self._join_new(procfs.pids())
        found = {}
        for pid, started in list(self._members.items()):
            reading = procfs.whole(pid)
            if reading is None or reading.started != started:
                del self._members[pid]
            else:
                found[pid] = reading
        return found

    def _join_new(self, there: Iterable[int]) -> None:
        now = set(there)
        parents: dict[int, Reading] = {}
        for pid in now - self._seen:
            if pid not in self._members and (reading := procfs.head(pid)) is not None:
                parents[pid] = reading
        self._seen = now
        # A child may have a smaller id than its parent, where ids have come round.
        while joined := [one for one in parents.values() if one.parent in self._members]:
            for reading in joined:
                self._members[reading.pid] = reading.started
                del parents[reading.pid]


class Everyone:
    """All processes that use a GPU, a hundredth of a core, or a hundredth of the memory.

    Args:
        memory: Bytes of the machine's memory.
    """

    def __init__(self, memory: int) -> None:
        self._least_rss = memory * LEAST_MEMORY
        self._before: dict[int, Reading] = {}
        self._shown: set[int] = set()

    def look(self, elapsed_s: float, on_gpus: Collection[int] = ()) -> dict[int, Reading]:
        """Returns all readings; of those that are not worth a line, the head alone."""
        heads = {pid: one for pid in procfs.pids() if (one := procfs.head(pid)) is not None}
        found: dict[int, Reading] = {}
        for pid, one in heads.items():
            reading = one
            if self._is_worth_it(one, elapsed_s, pid in on_gpus):
                reading = procfs.whole(pid) or one
            found[pid] = reading
        self._before = heads
        return found

    def _is_worth_it(self, one: Reading, elapsed_s: float, is_on_gpu: bool) -> bool:
        old = self._before.get(one.pid)
        used = one.cpu - old.cpu if old is not None and old.started == one.started else 0.0
        return (
            is_on_gpu
            or one.rss >= self._least_rss
            or (elapsed_s > 0 and used / elapsed_s >= LEAST_CPU)
        )


def watched(processes: str | Iterable[int], own: int, memory: Callable[[], int]) -> Watched:
    """Returns what finds ``tree`` (of ``own``), ``all``, or the processes of a list."""
    if processes == "all":
        return Everyone(memory())
    return Tree([own] if isinstance(processes, str) else processes)
