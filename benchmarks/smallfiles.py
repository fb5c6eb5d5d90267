"""A repository of many small files over a far line: time, in round trips, beside huggingface_hub.

The hub answers every request a round trip late; that is all the line there is. What an interpreter
takes to start is in both; it is told apart by the same download from a hub that is near.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import REPO, machine, report
from benchmarks.cost import run
from benchmarks.hubs import HubProcess, serving
from harness.daemon import BIN, Daemon, source

LARGEST = 200_000
_SNAPSHOT = f"from huggingface_hub import snapshot_download as f; f({REPO!r})"

Fetch = Callable[[HubProcess, Path], float]


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round-trip", type=float, default=0.1, metavar="S")
    options = parser.parse_args()
    report.title("Many small files over a far line")
    about = machine.describe(["huggingface_hub"])
    sizes = f"{options.files} of 1 to {LARGEST // 1000} KB, random"
    about |= {"files": sizes, "round trip": f"{options.round_trip * 1000:.0f} ms"}
    report.facts(about | {"rounds": options.rounds, "load before": machine.load()})
    with tempfile.TemporaryDirectory(prefix="zhcache-bench-") as folder:
        served = _small_files(Path(folder) / "repo", options.files, options.seed)
        far = _measured(served, options.round_trip, options.rounds, options.seed)
        near = _measured(served, 0.0, options.rounds, options.seed)
    _print(far, near, options.round_trip)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"machine": about, "far": far, "near": near})


def _small_files(folder: Path, count: int, seed: int) -> Path:
    dice = random.Random(seed)
    folder.mkdir()
    for number in range(count):
        content = dice.randbytes(dice.randint(1000, LARGEST))
        (folder / f"part-{number:03}.json").write_bytes(content)
    return folder


def _measured(served: Path, round_trip_s: float, rounds: int, seed: int) -> dict[str, list[float]]:
    delays = [f"delay(seconds={round_trip_s}, plane={plane!r})" for plane in ("meta", "bytes")]
    faults = [word for delay in delays if round_trip_s for word in ("--fault", delay)]
    taken: dict[str, list[float]] = {name: [] for name in _TOOLS}
    shuffle = random.Random(seed)
    with serving(served, *faults) as hub:
        for number in range(rounds):
            for name in shuffle.sample(list(_TOOLS), len(_TOOLS)):
                with tempfile.TemporaryDirectory(prefix="zhcache-bench-") as fresh:
                    os.sync()
                    taken[name].append(_TOOLS[name](hub, Path(fresh)))
                report.say(f"{number + 1} {name}: {taken[name][-1]:.2f} s")
    return taken


def _zhcached(hub: HubProcess, folder: Path) -> float:
    daemon = Daemon(folder, source(hub)).start()
    try:
        return run([BIN / "zhcache", "prefetch", REPO, "--json"], daemon.environ).wall_s
    finally:
        daemon.stop()


def _huggingface_hub(hub: HubProcess, folder: Path) -> float:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | {
        "HOME": str(folder),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return run([sys.executable, "-c", _SNAPSHOT], environ).wall_s


_TOOLS: dict[str, Fetch] = {"zhcached": _zhcached, "huggingface_hub": _huggingface_hub}


def _print(far: dict[str, list[float]], near: dict[str, list[float]], round_trip_s: float) -> None:
    rows: list[list[str]] = []
    for name, taken in far.items():
        waited = statistics.median(taken) - statistics.median(near[name])
        trips = f"{waited / round_trip_s:.0f}"
        rows.append([name, report.spread(taken, ".2f"), report.spread(near[name], ".2f"), trips])
    report.table(("tool", "far hub, s", "near hub, s", "the difference in round trips"), rows)
    ours, theirs = far["zhcached"], far["huggingface_hub"]
    faster = [slow / fast for fast, slow in zip(ours, theirs, strict=True)]
    met = statistics.median(faster) >= 2
    row = report.goal("far hub: huggingface_hub's time / zhcached's", ">= 2", faster, met)
    report.table(("zhcached", "goal", "median [min..max] over rounds", ""), [row])


if __name__ == "__main__":
    main()
