"""Which of a node's waiting calls is next: models are loaded seldom, and nobody starves. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A call that waits: its model's key, and since when, by a monotonic clock."""

    model: str
    since: float


@dataclass(frozen=True)
class Turns:
    """How long the same models may go first.

    Attributes:
        age_s: A call that has waited this long is overdue. A turn of other models ends for it, once
            that has lasted as long: under overload every call is overdue, and to follow age alone
            would mean to load a model for each of them.
        share_s: A model that another lane of the node has is loaded a second time only where its
            calls would wait this long there.
    """

    age_s: float = 30.0
    share_s: float = 10.0


def next_call(
    waiting: Sequence[Waiting],
    warm: Collection[str],
    elsewhere: Mapping[str, float],
    turns: Turns,
    now: float,
    turn_began: float,
) -> int | None:
    """Returns the index of the call that a lane makes next; None where it is to make none.

    Args:
        waiting: All calls that wait, in the order they came.
        warm: Models that this lane need not load.
        elsewhere: Models that other lanes of the node have, with the seconds of calls that wait
            for each.
        turns: How long the same models may go first.
        now: The time.
        turn_began: When the model that this lane took up last was ready; from before its loading
            counted, a model that loads for longer than ``age_s`` would have turns of one call.
    """
    open_to_all = [
        place
        for place, one in enumerate(waiting)
        if one.model in warm or elsewhere.get(one.model, turns.share_s) >= turns.share_s
    ]
    if not open_to_all:
        return None
    oldest = open_to_all[0]
    is_overdue = now - waiting[oldest].since >= turns.age_s
    if is_overdue and now - turn_began >= turns.age_s:
        return oldest
    return next((place for place in open_to_all if waiting[place].model in warm), oldest)


def queue_s(
    waiting: Sequence[str],
    warm: Collection[str],
    call_s: Mapping[str, float],
    load_s: float,
    usual_s: float,
    lanes: int,
) -> float:
    """Returns the seconds until a call that came now would begin.

    Args:
        waiting: Models of the calls that wait or run.
        warm: Models that need not be loaded.
        call_s: What a call of each model took.
        load_s: What loading takes.
        usual_s: What a call of another model takes.
        lanes: Calls that run at a time.
    """
    calls = sum(call_s.get(model, usual_s) for model in waiting)
    loads = len(set(waiting) - set(warm)) * load_s
    return (calls + loads) / lanes
