"""Sizes, durations and shares as people write them, with their units."""

from __future__ import annotations

import re
from collections.abc import Mapping

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SPANS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MEASURE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")


def parse_size(value: object) -> int:
    """Returns bytes for ``500GiB``, ``"0"``, 1048576; KB is 1000, KiB (and bare K) 1024.

    Raises:
        ValueError: Not a size.
    """
    return int(_measure(value, _UNITS, "a size such as 500GiB"))


def parse_duration(value: object) -> float:
    """Returns seconds for ``30s``, ``10m``, ``6h``, ``1d``, 5.

    Raises:
        ValueError: Not a duration.
    """
    return _measure(value, _SPANS, "a duration such as 30s")


def parse_share(value: object) -> float:
    """Returns a fraction for ``0.8``, ``"0.8"`` or ``1``, else bytes for ``20GiB``.

    Raises:
        ValueError: Neither.
    """
    size = _measure(value, _UNITS, "a fraction such as 0.8 or a size such as 20GiB")
    has_unit = isinstance(value, str) and value.strip()[-1:].isalpha()
    return size if size <= 1 and not has_unit else float(int(size))


def _measure(value: object, units: Mapping[str, float], meant: str) -> float:
    found = _MEASURE.fullmatch(str(value)) if not isinstance(value, bool) else None
    if found is None or found[2].lower() not in units:
        raise ValueError(f"{value!r} is not {meant}")
    return float(found[1]) * units[found[2].lower()]
