"""In which order a batch's images are asked for, where many nodes make them. Pure.

Batches are often sorted by model. As many calls as are under way at a time would all be of one
model then, whose home would work while all other nodes wait. So several models are asked for in
turn; but not all at once, since each that a node has to change to must be loaded again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence


def abreast(models: Sequence[str], places: Sequence[int], count: int) -> Iterator[int]:
    """Yields all of ``places``, those of ``count`` models in turn; of each model as they come.

    Args:
        models: Of each place of the batch.
        places: Those that are wanted.
        count: Models that are asked for at a time, the first to appear first.
    """
    waiting: dict[str, deque[int]] = {}
    for place in places:
        waiting.setdefault(models[place], deque()).append(place)
    left = deque(waiting.values())
    turn: deque[deque[int]] = deque()
    while left or turn:
        while left and len(turn) < max(count, 1):
            turn.append(left.popleft())
        now = turn.popleft()
        yield now.popleft()
        if now:
            turn.append(now)
