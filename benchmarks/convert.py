"""From float32 to float16: zhcache's conversion, stock's load and save, and plain copying.

A full-size Stable Diffusion 1.5 and a large sharded FLUX of random weights. Copying the output and
hashing it is the floor: less than that no store that knows its bytes can do. Ours alone is durable
when it returns. Memory is what all
processes of a way have beyond what was there before, as PSS, looked at ten times a second.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import machine, models, report
from benchmarks.cost import memory_kib
from harness.daemon import Daemon

TIME_GOAL = 1.5
MEMORY_GOAL_GIB = 0.8
SAMPLE_S = 0.1
WAYS = ("cp and sha256sum of the output", "stock load and save", "zhcache")
_STOCK = """
import sys, torch
from diffusers import DiffusionPipeline
DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float16).save_pretrained(sys.argv[2])
"""


@dataclass
class Found:
    """Seconds and GiB of one way, a value for each round."""

    seconds: list[float] = field(default_factory=list[float])
    memory: list[float] = field(default_factory=list[float])


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", choices=("sd15", "flux"), help="one of the two models")
    options = parser.parse_args()
    report.title("Conversion")
    about = machine.describe(["torch", "diffusers", "transformers"])
    report.facts(about | {"repeated": options.repeat, "load before": machine.load()})
    made: dict[str, Callable[[Path], Path]] = {
        "sd15": lambda folder: models.build_sd15(folder, "float32"),
        "flux": models.build_flux,
    }
    raw = {
        name: _measure(name, build, options)
        for name, build in made.items()
        if options.only in (None, name)
    }
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"machine": about, "found": raw})


def _measure(name: str, build: Callable[[Path], Path], options: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="zhcache-convert-", dir=options.folder) as temporary:
        folder = Path(temporary)
        report.say(f"building {name}")
        model = build(folder / "model")
        daemon = Daemon(folder)
        daemon.start()
        try:
            repo = f"bench/{name}"
            daemon.cli("import", str(model), "--repo", repo, timeout=1200)
            # All ways read the store's files, so that each byte is on the disk once.
            shutil.rmtree(model)
            (snapshot,) = daemon.json("ls")["snapshots"]
            # Before the first worker: what starts them stays for minutes and is counted as ours.
            idle = _pss(psutil.Process(_pid(daemon)))
            found = _rounds(daemon, repo, snapshot, folder, options, idle)
        finally:
            daemon.stop()
    _tell(name, snapshot["bytes"] / 2**30, found)
    return {way: vars(each) for way, each in found.items()}


def _rounds(
    daemon: Daemon, repo: str, snapshot: dict[str, Any], folder: Path, options: Any, idle: int
) -> dict[str, Found]:
    found = {way: Found() for way in WAYS}
    commit, model = snapshot["commit"], snapshot["path"]
    output, copy = folder / "stock", folder / "copy"
    ways: dict[str, Callable[[], None]] = {
        WAYS[0]: lambda: _copy(daemon, repo, commit, copy),
        WAYS[1]: lambda: _run([sys.executable, "-c", _STOCK, model, str(output)]),
        WAYS[2]: lambda: _convert(daemon, repo, commit),
    }
    _convert(daemon, repo, commit)  # What is copied has to be there, and the files to be cached.
    order = random.Random(options.seed)
    for number in range(options.repeat):
        report.say(f"round {number + 1} of {options.repeat}")
        for way in order.sample(WAYS, len(WAYS)):
            if way == WAYS[2]:
                daemon.cli("rm", repo, "--variant", "fp16")
                daemon.cli("gc")
            is_ours = way == WAYS[2]
            root = psutil.Process(_pid(daemon) if is_ours else None)
            before = idle if is_ours else _pss(root)
            os.sync()  # What another way wrote is not to be waited for in this one.
            seconds, memory = _watched(ways[way], root, before)
            found[way].seconds.append(seconds)
            found[way].memory.append(memory)
            shutil.rmtree(output, ignore_errors=True)
            shutil.rmtree(copy, ignore_errors=True)
    return found


def _pid(daemon: Daemon) -> int:
    if daemon.process is None:
        raise RuntimeError("the daemon does not run")
    return daemon.process.pid


def _convert(daemon: Daemon, repo: str, commit: str) -> None:
    daemon.cli("prefetch", repo, "--revision", commit, "--variant", "fp16", timeout=1200)


def _copy(daemon: Daemon, repo: str, commit: str, target: Path) -> None:
    variant = daemon.cli("path", repo, "--revision", commit, "--variant", "fp16").stdout.strip()
    _run(["cp", "-rL", variant, str(target)])
    _run(["sha256sum", *map(str, sorted(target.rglob("*.safetensors")))])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")


def _watched(way: Callable[[], None], root: psutil.Process, before: int) -> tuple[float, float]:
    """Returns the seconds that ``way`` took and the GiB by which ``root``'s tree grew at most."""
    peak, ended = 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_S):
            peak = max(peak, _pss(root))

    watcher = threading.Thread(target=look)
    watcher.start()
    began = time.perf_counter()
    try:
        way()
    finally:
        seconds = time.perf_counter() - began
        ended.set()
        watcher.join()
    return seconds, (peak - before) / 2**20


def _pss(root: psutil.Process) -> int:
    """Returns KiB of a process and of all that it started, by itself or by others."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            total += memory_kib(process.pid)["Pss"]
        except (OSError, KeyError):
            continue
    return total


def _tell(name: str, size: float, found: dict[str, Found]) -> None:
    print(f"## {name}, {size:.1f} GiB\n")
    floor = found[WAYS[0]].seconds
    report.table(
        ("way", "seconds", "of cp and sha256sum", "GiB of memory at most"),
        [
            (
                way,
                report.spread(each.seconds, ".1f"),
                report.spread(_ratios(each.seconds, floor), ".2f"),
                report.spread(each.memory, ".2f"),
            )
            for way, each in found.items()
        ],
    )
    ratios, memory = _ratios(found[WAYS[2]].seconds, floor), found[WAYS[2]].memory
    report.table(
        ("goal", "at most", "measured", ""),
        [
            report.goal(
                "time of cp and sha256sum", str(TIME_GOAL), ratios,
                statistics.median(ratios) <= TIME_GOAL,
            ),
            report.goal(
                "memory above idle, GiB", str(MEMORY_GOAL_GIB), memory,
                max(memory) <= MEMORY_GOAL_GIB,
            ),
        ],
    )  # fmt: skip


def _ratios(seconds: Sequence[float], floor: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(seconds, floor, strict=True)]


if __name__ == "__main__":
    main()
