"""When a followed model is looked at again. Pure: the time and the chance are passed in.

Times are wall-clock seconds, since they outlive the daemon; a wall clock may jump, so no time is
believed that lies further ahead than any pause is long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

DAY_S = 86400.0
MOST_TIMES = 4
"""How many times as long as usual a pause is at most, after failures."""

STEP_S = 5.0
"""What lies between two of the looks that an earlier daemon missed."""

Draw = Callable[[], float]
"""A number from 0 up to 1, at random."""


def pause(every_s: float, failures: int, jitter: float, draw: Draw) -> float:
    """Returns how many seconds after a look the next one is due.

    Args:
        every_s: The usual pause, in seconds.
        failures: How many looks failed one after the other, up to now. Each doubles the pause, up
            to ``MOST_TIMES`` the usual one or a day, whichever is less; never below the usual one.
        jitter: Share of the pause by which it is moved, either way.
        draw: The chance.
    """
    longer = every_s * min(2 ** min(failures, 16), MOST_TIMES)
    base = max(every_s, min(longer, DAY_S))
    return base * (1 + jitter * (2 * draw() - 1))


def believed(due: float, now: float, every_s: float, jitter: float) -> float:
    """Returns when a look is due, where the clock may have been put back since that was reckoned.

    Args:
        due: When it was to be.
        now: The time.
        every_s: The usual pause.
        jitter: As in ``pause``.
    """
    longest = max(every_s, min(every_s * MOST_TIMES, DAY_S)) * (1 + jitter)
    return min(due, now + longest)


def spread(missed: Mapping[str, float], now: float, draw: Draw) -> dict[str, float]:
    """Returns when looks are due that an earlier daemon missed, so that not all ask at once.

    Args:
        missed: The usual pause of each, in the order in which they were due.
        now: The time.
        draw: The chance.
    """
    due: dict[str, float] = {}
    at = now
    for name, every_s in missed.items():
        step = min(STEP_S, every_s / 10)
        due[name] = at + step * draw()
        at += step
    return due
