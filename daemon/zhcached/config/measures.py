"""Which keys are sizes, durations or shares, written with units."""

from __future__ import annotations

from typing import Any

from zhcached.units import parse_duration, parse_share, parse_size

SIZES = {
    ("store", "quota"),
    ("store", "min_free"),
    ("download", "rate"),
    ("download", "min_rate"),
    ("serve", "rate"),
    ("swarm", "rate"),
}
TIMES = {
    ("store", "grace"),
    ("store", "keep_partial"),
    ("store", "scrub"),
    ("download", "stall"),
    ("download", "connect_timeout"),
    ("residency", "keep_alive"),
    ("residency", "call_timeout"),
    ("serve", "refresh"),
    ("follow", "every"),
    ("watch", "settle"),
    ("watch", "poll"),
}
SHARES = {("residency", "vram"), ("residency", "ram"), ("follow", "jitter")}


def in_units(tables: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns one table with its measures as numbers.

    Raises:
        ValueError: It is no table, or a value is not what its key takes.
    """
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"[{name}] is not a table")  # noqa: TRY004 - one kind for all of _build
    converted: dict[str, Any] = {}
    for key, value in table.items():  # pyright: ignore[reportUnknownVariableType]
        if (name, key) == ("download", "windows") and isinstance(value, list):
            converted[key] = [_window(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
        elif (name, key) in SIZES:
            converted[key] = parse_size(value)
        elif (name, key) in TIMES:
            converted[key] = parse_duration(value)
        elif (name, key) in SHARES:
            converted[key] = parse_share(value)
        else:
            converted[key] = value
    return converted


def _window(table: object) -> object:
    if not isinstance(table, dict) or "rate" not in table:
        return table  # pyright: ignore[reportUnknownVariableType]
    return {**table, "rate": parse_size(table["rate"])}
