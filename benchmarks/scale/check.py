"""The model's word beside what was measured in network namespaces. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks import report
from benchmarks.scale.model import Forecast, Lines, direct, gateway, peers, swarm, tiered
from benchmarks.scale.namespaces import (
    BOTH,
    DIRECT,
    GATEWAY,
    PEERS,
    RUSH,
    SWARM,
    TIERED,
    WEB,
    Run,
    Way,
    fan_out,
)

MIB = 2**20
UPSTREAM_GOAL = 1.1


def forecast(way: Way, lines: Lines, nodes: int, size: int) -> Forecast:
    """Returns what the model says of a way, where the gateway is one of the nodes.

    Raises:
        ValueError: There is no such way.
    """
    match way.name:
        case DIRECT.name:
            return direct(lines, nodes, size)
        # Of one large file whoever begins first is the others' gateway.
        case GATEWAY.name | BOTH.name | RUSH.name:
            return gateway(lines, nodes - 1, size)
        case TIERED.name:
            return tiered(lines, nodes, size, fan_out=fan_out(nodes))
        case PEERS.name:
            return peers(lines, nodes, size)
        case SWARM.name:
            first = peers(lines, 1, size)
            rest = swarm(replace(lines, uplink=math.inf), nodes - 1, size)
            return replace(rest, makespan_s=first.makespan_s + rest.makespan_s, upstream_bytes=size)
        case WEB.name:
            return swarm(lines, nodes, size)
        case _:
            raise ValueError(way.name)


def print_runs(lines: Lines, measured: Mapping[tuple[int, Way], Sequence[Run]]) -> None:
    """Prints the runs, each beside the model."""
    rows: list[list[str]] = []
    for (nodes, way), runs in measured.items():
        said = forecast(way, lines, nodes, runs[0].model_bytes)
        beside = measured.get((nodes, DIRECT))
        took = [run.makespan_s for run in runs]
        faster = "–"
        if beside:
            direct_s = statistics.median(run.makespan_s for run in beside)
            faster = f"{direct_s / statistics.median(took):.1f}"
        upstream = [run.upstream_ratio for run in runs]
        busiest = [max(run.sent) / run.model_bytes for run in runs]
        rows.append(
            [
                str(nodes),
                way.name,
                f"{said.upstream_bytes / runs[0].model_bytes:.2f}",
                report.spread(upstream, ".3f"),
                f"{said.makespan_s:.1f}",
                report.spread(took, ".1f"),
                f"{statistics.median(took) / said.makespan_s:.2f}",
                faster,
                f"{said.busiest_bytes / runs[0].model_bytes:.1f}",
                f"{statistics.median(busiest):.2f}",
                f"{statistics.median(run.listings for run in runs):.0f}",
            ]
        )
    head = ("nodes", "way", "upstream / model: said", "measured", "makespan, s: said", "measured")
    head += ("measured / said", "direct / this", "busiest sends / model: said", "measured")
    report.table((*head, "listings asked of the hub"), rows)


def print_goals(measured: Mapping[tuple[int, Way], Sequence[Run]]) -> None:
    """Prints what three nodes are held to."""
    rows = [
        report.goal(
            f"{way.name}: bytes upstream / model, {nodes} nodes",
            f"<= {UPSTREAM_GOAL}",
            [run.upstream_ratio for run in runs],
            statistics.median(run.upstream_ratio for run in runs) <= UPSTREAM_GOAL,
        )
        for (nodes, way), runs in measured.items()
        if way not in (DIRECT, WEB)
    ]
    report.table(("what", "goal", "median [min..max]", ""), rows)
