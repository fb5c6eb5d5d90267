"""Where a call goes: to its model's home, unless that costs more waiting than loading. Pure.

What replicas tell is a moment old, so a router adds what it sent since. A burst of calls for a
model that is warm nowhere goes to one place: else it would be loaded everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

WARM = 0.1
"""Of the waiting for which a call goes to where its model must be loaded."""


@dataclass(frozen=True)
class Seen:
    """A replica as a router sees it.

    Attributes:
        replica: Its name.
        node: Of the machine that it is on.
        warm: Models that its daemon has warm.
        queue_s: Seconds until a call that came now would begin, as it told.
        call_s: Seconds that a call takes there; 0 where none was made yet.
        load_s: Seconds that loading a model takes there; 0 where none was loaded yet.
        sent: Calls of this router that are there, or on their way there and back: of those that
            wait for room Serve sends a hundred at once, and all but one are refused.
        depth: Calls that it takes at a time.
        is_up: Whether its daemon answers.
    """

    replica: str
    node: str
    warm: frozenset[str] = field(default=frozenset())
    queue_s: float = 0.0
    call_s: float = 0.0
    load_s: float = 0.0
    sent: int = 0
    depth: int = 32
    is_up: bool = True

    @property
    def wait_s(self) -> float:
        """Seconds until a call would begin, what was sent since it was told counted."""
        return max(self.queue_s, min(self.sent, self.depth) * self.call_s)


def choose(model: str, home: str | None, seen: Sequence[Seen], spill_s: float) -> str | None:
    """Returns the replica that a call goes to, even where that has to be waited for.

    That is home; or where the model is warm, if home has it not. Only waiting that is saved moves a
    call from there, and the more where it takes loading.

    Args:
        model: The model's key.
        home: The node that is its home.
        seen: All replicas there are.
        spill_s: A call goes to where its model is cold only if it begins this much earlier there,
            and to where it is warm if it does by ``WARM`` of that.

    Returns:
        None where there is no replica.
    """
    # Where no daemon answers, one is asked all the same: its error says what is wrong.
    up = [one for one in seen if one.is_up] or list(seen)
    if not up:
        return None
    warm = [one for one in up if model in one.warm]
    near = [one for one in up if one.node == home]
    both = [one for one in near if one in warm]
    best = _first(both or warm or near or up, model)
    if warm:
        easy = _first(warm, model)
        if begins_s(easy, model) + WARM * spill_s < begins_s(best, model):
            best = easy
    other = _first(up, model)
    saved = begins_s(best, model) - begins_s(other, model)
    return other.replica if saved > spill_s else best.replica


def begins_s(one: Seen, model: str) -> float:
    """Returns the seconds until a call for ``model`` would begin to draw there."""
    return one.wait_s + (0.0 if model in one.warm else one.load_s)


def _first(seen: Sequence[Seen], model: str) -> Seen:
    return min(seen, key=lambda one: (begins_s(one, model), one.replica))
