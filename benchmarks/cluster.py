"""What a cluster costs and saves: milliseconds for each call, and models loaded.

Calls: a tiny pipeline on the CPU of one node, called directly and through Ray in turn, in one
process; of each what it takes beyond the call in the daemon. Loads: a hundred calls over six
models, Zipf, on two nodes with room for three models each or for two. Models are stand-ins there: a
load sleeps, a call sleeps; what is counted is what would have been loaded. Beside ours runs Serve's
own way, ``@serve.multiplexed``. Needs the extra ``cluster``.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from demohub import Hub, pipeline
from harness import raycluster
from harness.daemon import Daemon, source

REPO = "org/pipe"
MODELS = [f"org/model-{number}" for number in range(6)]
ARGUMENTS = {"num_inference_steps": 2, "width": 32, "height": 32}


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    # A daemon and a hub in it as well: Ray takes the only address there is, loopback's.
    raycluster.loopback_alone()
    report.title("Cluster")
    report.facts(machine.describe(["ray", "torch", "diffusers"]) | {"load before": machine.load()})
    with tempfile.TemporaryDirectory(prefix="zh-") as folder, Hub() as hub:
        daemon = Daemon(Path(folder) / "d", source(hub)).start()
        try:
            files = pipeline.build(Path(folder) / "pipe")
            hub.add(REPO, {str(p.relative_to(files)): p for p in files.rglob("*") if p.is_file()})
            daemon.cli("prefetch", REPO)
            calls, loads = _measure(daemon, options)
        finally:
            daemon.stop()
    print(f"Load after: {machine.load()}.")
    report.write_json(
        options.json, {"calls": calls, "loads": {str(k): v for k, v in loads.items()}}
    )


def _measure(daemon: Daemon, options: Any) -> tuple[dict[str, list[float]], dict[Any, Any]]:
    os.environ["ZHCACHE_SOCKET"] = str(daemon.socket)
    # For Ray's processes, which import replicas by their name.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])
    sockets = [str(daemon.socket)] * 2
    with raycluster.cluster(*sockets) as (started, _):
        report.say("calls")
        calls = _calls(started.address, options.calls)
        _told_calls(calls)
        # Only now: with its first import Ray takes from the environment how to authenticate.
        from benchmarks.clustered import WAYS, Bench

        bench = Bench(started.address)
        loads: dict[Any, Any] = defaultdict(list)
        draw = random.Random(options.seed)
        for number in range(options.rounds):
            asked = _zipf(draw)
            order = list(product((3, 2), WAYS))
            draw.shuffle(order)
            for slots, way in order:
                report.say(f"round {number}: {way}, {slots} slots")
                loads[slots, way].append(bench.run(way, slots, MODELS, asked))
        _told_loads(loads)
    return calls, loads


def _calls(address: str, count: int) -> dict[str, list[float]]:
    """Returns the seconds that calls took in all and beyond drawing, one way after the other."""
    from zhcache import cluster
    from zhcache.cluster.lane import Lane
    from zhcache.cluster.task import Model, Task

    served = cluster.serve(REPO, address=address, nodes=1, device="cpu")
    task = Task(model=Model(repo=REPO), prompt="a red house", seed=7, arguments=ARGUMENTS)
    lane = Lane("cpu")
    lane.opened(task.model)
    taken: dict[str, list[float]] = {"direct": [], "cluster": [], "more": []}
    for number in range(count + 5):
        began = time.perf_counter()
        lane.draw(task, "")
        between = time.perf_counter()
        picture = served.make(task)
        ended = time.perf_counter()
        # The first ones load, connect and import.
        if number >= 5:
            taken["direct"].append(between - began)
            taken["cluster"].append(ended - between)
            taken["more"].append(ended - between - picture.seconds)
    lane.close()
    served.stop()
    return taken


def _told_calls(calls: dict[str, list[float]]) -> None:
    rows = [
        ("the node's resident pipeline, called directly", calls["direct"]),
        ("through the cluster", calls["cluster"]),
        ("of that, beyond the call of the resident pipeline", calls["more"]),
    ]
    count = len(calls["more"])
    print(
        f"{count} calls each, of 2 steps and 32x32 pixels, one way after the other. The ratio is of"
        " calls that came one after the other; median and range.\n"
    )
    report.table(
        ("way", "ms, median and range", "ms, 95 of 100", "of the call just before it"),
        [
            (
                way,
                report.spread(taken, ".1f", 1000),
                f"{_p95(taken) * 1000:.1f}",
                report.spread(_ratios(taken, calls["direct"]), ".2f"),
            )
            for way, taken in rows
        ],
    )


def _ratios(taken: Sequence[float], beside: Sequence[float]) -> list[float]:
    """Returns the ratios of what was measured in turn."""
    return [one / other for one, other in zip(taken, beside, strict=True)]


def _p95(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=20)[-1]


def _zipf(draw: random.Random, count: int = 100) -> list[str]:
    weights = [1 / (rank + 1) for rank in range(len(MODELS))]
    return draw.choices(MODELS, weights, k=count)


def _told_loads(loads: dict[Any, Any]) -> None:
    from benchmarks.clustered import SERVE

    print(
        "100 calls over 6 models at 50/s on 2 nodes; a call sleeps 0.1 s, a load 1.0 s, one"
        " after the other on each node. Seconds are until all are there. Median and range of the"
        " rounds; ratios are to Serve's way in the same round.\n"
    )
    for slots in (3, 2):
        fits = "all fit" if slots == 3 else "4 of 6 fit"
        rows = []
        for way in sorted({way for _, way in loads}):
            counted, seconds = zip(*loads[slots, way], strict=True)
            beside, their_s = zip(*loads[slots, SERVE], strict=True)
            rows.append(
                (
                    way,
                    report.spread(counted),
                    report.spread(_ratios(counted, beside), ".2f"),
                    report.spread(seconds, ".1f"),
                    report.spread(_ratios(seconds, their_s), ".2f"),
                )
            )
        report.table(
            (f"{slots} models a node ({fits})", "loads", "of Serve's", "seconds", "of Serve's"),
            rows,
        )


if __name__ == "__main__":
    main()
