"""What ``serve`` is told, checked before Ray is asked for it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from zhcache.arguments import check
from zhcache.errors import UsageError


def check_settings(
    *,
    device: Sequence[str],
    nodes: object,
    depth: object,
    queue: object,
    spill_s: object,
    age_s: object,
) -> None:
    """Refuses the first of ``serve``'s settings that cannot be meant.

    Raises:
        UsageError: One cannot.
    """
    check(
        {
            "device": (device, bool(device), "a device, or several"),
            "nodes": (nodes, _is_bounds(nodes), "a number of nodes, or two: (1, 4)"),
            "depth": (depth, _is_count(depth), "1 or more"),
            "queue": (queue, _is_count(queue), "1 or more"),
            "spill_s": (spill_s, _is_span(spill_s), "seconds, 0 or more"),
            "age_s": (age_s, _is_span(age_s), "seconds, 0 or more"),
        }
    )


def bounds(nodes: int | tuple[int, int] | None, there: int) -> tuple[int, int]:
    """Returns how many replicas are wanted at least and at most, of nodes that are ``there``.

    Raises:
        UsageError: That is more than there are: Serve would wait without end.
    """
    if nodes is None:
        nodes = there
    least, most = nodes if isinstance(nodes, tuple) else (nodes, nodes)
    if not 0 < least <= there:
        raise UsageError(
            "the cluster has {there} nodes for this, and {least} are wanted",
            hint="see `ray status`; start Ray on more machines, or ask for fewer or other labels",
            there=there,
            least=max(least, 1),
        )
    return least, most


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_span(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def _is_bounds(value: object) -> bool:
    if not isinstance(value, tuple):
        return value is None or _is_count(value)
    pair = cast("tuple[Any, ...]", value)
    return len(pair) == 2 and all(map(_is_count, pair)) and pair[0] <= pair[1]
