"""Many machines and one model: the formulas' tables, then runs in network namespaces.

``python -m benchmarks.scale``, as root with iproute2; ``--formulas`` alone needs neither. Rounds
are shuffled. A node is a network namespace with a zhcached and a store of its own; the hub stands
behind the slow line.
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from benchmarks import machine, report
from benchmarks.scale import check, table
from benchmarks.scale.model import Lines
from benchmarks.scale.namespaces import (
    DIRECT,
    GATEWAY,
    MIB,
    PEERS,
    SWARM,
    TIERED,
    WAYS,
    WEB,
    Run,
    Way,
    once,
    random_model,
)
from benchmarks.scale.network import Network

SMALL = 3
LARGER = (DIRECT, GATEWAY, TIERED, PEERS, SWARM, WEB)


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--formulas", action="store_true", help="no runs")
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 6, 12])
    parser.add_argument("--size", type=int, default=48, metavar="MIB", help="of the model")
    parser.add_argument("--uplink", type=float, default=8, metavar="MIB", help="a second")
    parser.add_argument("--link", type=float, default=32, metavar="MIB", help="a second, a node's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", metavar="NAME", help="these alone")
    options = parser.parse_args()
    report.title("Many machines")
    print("## By formula\n")
    table.print_overview()
    table.print_ways(table.COUNTS[1:])
    if options.formulas:
        return
    lines = Lines(options.uplink * MIB, options.link * MIB, options.link * MIB)
    about = machine.describe()
    said = {"model": f"{options.size} MiB, random", "uplink": f"{options.uplink:g} MiB/s"}
    said |= {"a node's link": f"{options.link:g} MiB/s", "rounds": str(options.rounds)}
    print("## In network namespaces\n")
    report.facts(about | said)
    print(f"Load before: {machine.load()}", end="; ", flush=True)
    tasks = [(n, way) for n in options.nodes for way in (WAYS if n <= SMALL else LARGER)]
    tasks = [task for task in tasks if not options.ways or task[1].name in options.ways]
    measured: dict[tuple[int, Way], list[Run]] = defaultdict(list)
    shuffle = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="zhcache-scale-") as name:
        model = random_model(Path(name) / "model", options.size * MIB)
        for number in range(options.rounds):
            for nodes, way in shuffle.sample(tasks, len(tasks)):
                with Network(nodes, uplink=lines.uplink, link=lines.link) as network:
                    run = once(way, network, model)
                measured[nodes, way].append(run)
                told = f"{run.makespan_s:.1f} s, upstream {run.upstream_ratio:.3f}"
                report.say(f"{number + 1} {nodes} nodes, {way.name}: {told}")
    print(f"after: {machine.load()}.\n")
    ordered = {task: measured[task] for task in tasks}
    check.print_runs(lines, ordered)
    check.print_goals(ordered)
    raw = {f"{n} {way.name}": [asdict(one) for one in runs] for (n, way), runs in ordered.items()}
    report.write_json(options.json, {"machine": about, "runs": raw})


if __name__ == "__main__":
    main()
