"""The steps of a call as its caller's callback sees them: counted over all parts, no tensors."""

from __future__ import annotations

from typing import Any

from zhcache.errors import UsageError


class Steps:
    """Counts the steps of all parts; a part that is made again is not counted twice.

    Args:
        parts: How many there are.
    """

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._next: dict[int, int] = {}
        self._totals: dict[int, int] = {}
        self._done = 0

    def count(self, part: int, step: int, total: int) -> int | None:
        """Returns which step of the whole call a part's step is; None: it was counted already.

        Of a call in one part it is the step itself. Of several it is how many steps of all parts
        are done before it, so that it goes up from 0, whatever the order in which they come. Steps
        that nobody told of, since the client was slow to listen, are counted with the next.
        """
        if self._parts == 1:
            return step
        self._totals[part] = total
        missed = step + 1 - self._next.get(part, 0)
        if missed <= 0:
            return None
        self._next[part] = step + 1
        self._done += missed
        return self._done - 1

    def over(self, part: int) -> None:
        """Counts what nobody told of a part that is over."""
        missed = self._totals.get(part, 0) - self._next.get(part, 0)
        if missed > 0:
            self._next[part] = self._totals[part]
            self._done += missed


class NoTensors(dict[str, Any]):
    """What a callback is given for tensors: none, and an error instead of a bare KeyError."""

    def __missing__(self, name: str) -> Any:
        raise UsageError(
            "{name} stays in the worker; a resident pipeline's callback sees step and timestep",
            hint="load the pipeline with mode='attach' to look at tensors",
            name=name,
        )


def check_untouched(returned: object) -> None:
    """Refuses what a callback returned to change tensors.

    Raises:
        UsageError: It is a dictionary with something in it.
    """
    if isinstance(returned, dict) and returned:
        raise UsageError(
            "the callback returned {names}: a resident pipeline's tensors cannot be changed",
            hint="return nothing, or load the pipeline with mode='attach'",
            names=", ".join(str(name) for name in returned),
        )
