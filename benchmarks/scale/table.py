"""What the model says, as tables: ``python -m benchmarks.scale.table``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from benchmarks import report
from benchmarks.scale.model import (
    Forecast,
    Lines,
    direct,
    gateway,
    gateways,
    gbit,
    peers,
    peers_in_waves,
    swarm,
    tiered,
)

SIZE = 20e9
OFFICE = Lines(uplink=gbit(1), link=gbit(10), hub_link=gbit(10))
CENTRE = Lines(uplink=gbit(10), link=gbit(25), hub_link=gbit(100))
WARM = Lines(uplink=math.inf, link=gbit(10), hub_link=gbit(10))
COUNTS = (3, 10, 50, 100, 1000, 10_000)

Forecaster = Callable[[Lines, int, float], Forecast]
WAYS: dict[str, Forecaster] = {
    "direct": direct,
    "one gateway": gateway,
    "tiered: a tree of gateways, 10 below each": tiered,
    "peers, all at once after the first": peers,
    "peers, in waves": peers_in_waves,
    "swarm": swarm,
}


def main() -> None:
    """Prints both tables."""
    print_overview()
    print_ways(COUNTS[1:])


def print_overview() -> None:
    """Prints times at a glance: an office's line, a warm site, a data centre."""
    rows = [
        [
            f"{nodes:,}",
            *(_cold(way(OFFICE, nodes, SIZE)) for way in (direct, gateway, swarm)),
            *(shown_s(way(WARM, nodes, SIZE).makespan_s) for way in (gateway, swarm)),
            *(_cold(way(CENTRE, nodes, SIZE)) for way in (direct, gateways, swarm)),
        ]
        for nodes in COUNTS
    ]
    print(
        "A model of 20 GB. Office: 1 Gbit/s up, 10 GbE. Warm: an office that has the model, on one"
    )
    print("machine or in a swarm. Data centre: 10 Gbit/s up, nodes of 25 GbE, a gateway of 100 GbE")
    print(
        "for each 500. Time, bytes upstream. Bounds by the narrowest line; swarms at 0.55 of it.\n"
    )
    report.table(
        (
            "nodes",
            "office: direct",
            "gateway",
            "swarm",
            "warm: gateway",
            "swarm",
            "data centre: direct",
            "gateways",
            "swarm",
        ),
        rows,
    )


def print_ways(counts: Sequence[int]) -> None:
    """Prints every way at the office's lines: time, upstream, and what machines send."""
    rows: list[list[str]] = []
    for nodes in counts:
        for name, way in WAYS.items():
            found = way(OFFICE, nodes, SIZE)
            row = [f"{nodes:,}", name, shown_s(found.makespan_s)]
            told = (found.upstream_bytes, found.busiest_bytes, found.node_bytes, SIZE)
            rows.append([*row, *(shown_bytes(count) for count in told)])
    print("The office's lines, way by way.\n")
    sent = ("the busiest machine sends", "each other sends", "each receives")
    report.table(("nodes", "way", "makespan", "upstream", *sent), rows)


def _cold(found: Forecast) -> str:
    return f"{shown_s(found.makespan_s)}, {shown_bytes(found.upstream_bytes)}"


def shown_s(seconds: float) -> str:
    """Returns a time in the unit that suits it."""
    for limit, unit, name in ((180, 1, "s"), (7200, 60, "min"), (4 * 86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if seconds / unit >= 10 else 1}f} {name}"
    return f"{seconds / 86400:.0f} d"


def shown_bytes(count: float) -> str:
    """Returns a number of bytes in GB or TB."""
    if count >= 1e12:
        return f"{count / 1e12:.3g} TB"
    return f"{count / 1e9:.3g} GB"


if __name__ == "__main__":
    main()
