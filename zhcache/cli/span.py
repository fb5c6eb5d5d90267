"""Spans of time as people write them: ``90s``, ``10m``, ``2h``, ``1d``, ``forever``."""

from __future__ import annotations

import re
from typing import Any

import click

from zhcache.i18n import mark, translate

FOREVER = 0.0
"""What the wire says for "until it is stopped"."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd])")


class Span(click.ParamType):
    """Seconds, at least one; ``FOREVER`` for ``forever``.

    Args:
        can_last: Whether ``forever`` can be meant.
    """

    name = "span"

    def __init__(self, *, can_last: bool = True) -> None:
        self._can_last = can_last

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Returns the seconds."""
        if isinstance(value, float):
            return value
        found = _FORM.fullmatch(str(value).strip())
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if self._can_last and str(value) == "forever":
            return FOREVER
        if seconds < 1 and not self._can_last:
            text = mark("{value} is not a time such as 90s, 10m, 2h or 1d, at least 1s")
            self.fail(translate(text, value=repr(value)), param, ctx)
        if seconds < 1:
            text = mark("{value} is not a time such as 90s, 10m, 2h, 1d or forever, at least 1s")
            self.fail(translate(text, value=repr(value)), param, ctx)
        return seconds


def spelt(seconds: float) -> str:
    """Returns seconds in the largest unit of which they are a whole number: ``6h``, ``90s``."""
    for unit in "dhm":
        if seconds >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{seconds:g}s"
