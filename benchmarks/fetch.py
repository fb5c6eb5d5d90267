"""Downloads of one large file over loopback: throughput and CPU per GiB, beside other tools.

Rounds are shuffled, so that a busy spell of the machine strikes all tools alike; ratios are taken
within a round. The file is served from the page cache by a hub in a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import statistics
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from benchmarks import machine, report
from benchmarks.cost import Cost, cpu_s
from benchmarks.downloaders import (
    FLOOR,
    HASHLIB,
    HUGGINGFACE,
    OPENSSL,
    TOOLS,
    ZHCACHED,
    Tool,
)
from benchmarks.hubs import HubProcess, random_file, serving

MIB, GIB = 2**20, 2**30
Rounds = dict[str, list[Cost]]


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--size", type=int, default=2048, metavar="MIB", help="of the file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", metavar="TOOL", help="may be repeated")
    parser.add_argument(
        "--folder",
        type=Path,
        action="append",
        help="download to a file system; may be repeated (default: the temporary folder's)",
    )
    options = parser.parse_args()
    tools = [tool for tool in TOOLS if _is_wanted(tool, options.only)]
    report.title("Download of one file")
    about = machine.describe(["huggingface_hub", "modelscope"], ["curl", "openssl", "aria2c"])
    report.facts(about | {"file": f"{options.size} MiB, random", "rounds": options.rounds})
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="zhcache-bench-") as served:
        original = random_file(Path(served) / "repo", options.size * MIB)
        with serving(original.parent) as hub:
            for folder in options.folder or [Path(tempfile.gettempdir())]:
                results[str(folder)] = _measure_on(folder, hub, original, tools, options)
    report.write_json(options.json, {"machine": about, "filesystems": results})


def _is_wanted(tool: Tool, only: list[str] | None) -> bool:
    if only and tool.name not in only:
        return False
    if not tool.is_there():
        report.say(f"{tool.name} is left out: {tool.needs} is not installed")
    return tool.is_there()


def _measure_on(
    folder: Path, hub: HubProcess, original: Path, tools: list[Tool], options: argparse.Namespace
) -> dict[str, object]:
    size = original.stat().st_size
    busy_before = machine.load()
    rounds: Rounds = defaultdict(list)
    hub_cpu: dict[str, list[float]] = defaultdict(list)
    expected = _sha256(original)
    shuffle = random.Random(options.seed)
    for number in range(options.rounds):
        for tool in shuffle.sample(tools, len(tools)):
            before = cpu_s(hub.pid)
            cost = _once(tool, hub, folder, size, expected if number == 0 else None)
            hub_cpu[tool.name].append(cpu_s(hub.pid) - before)
            rounds[tool.name].append(cost)
            rate, per_gib = size / MIB / cost.wall_s, cost.cpu_s / size * GIB
            report.say(f"{number + 1} {tool.name}: {rate:.0f} MiB/s, {per_gib:.2f} CPU s/GiB")
    kind = machine.filesystem(folder)
    print(f"## Onto {kind}\n\nLoad before: {busy_before}; after: {machine.load()}.\n")
    _print_tools(tools, rounds, hub_cpu, size)
    _print_goals(rounds)
    costs = {name: [asdict(cost) for cost in costs] for name, costs in rounds.items()}
    return {"filesystem": kind, "size": size, "tools": costs, "hub_cpu_s": hub_cpu}


def _once(tool: Tool, hub: HubProcess, folder: Path, size: int, expected: str | None) -> Cost:
    fresh = Path(tempfile.mkdtemp(prefix="zhcache-bench-", dir=folder))
    try:
        # What earlier tools left to be written must not slow this one.
        os.sync()
        cost = tool.fetch(hub, fresh)
        if tool is not FLOOR:
            _check(tool, fresh, size, expected)
    finally:
        shutil.rmtree(fresh)
    return cost


def _check(tool: Tool, folder: Path, size: int, expected: str | None) -> None:
    found = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    whole = [path for path in found if path.stat().st_size == size]
    if len(whole) != 1 or (expected and _sha256(whole[0]) != expected):
        raise RuntimeError(f"{tool.name} did not bring the file: {found}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print_tools(
    tools: list[Tool], rounds: Rounds, hub_cpu: dict[str, list[float]], size: int
) -> None:
    reference = rounds.get(HUGGINGFACE.name)
    rows: list[list[str]] = []
    for tool in tools:
        costs = rounds[tool.name]
        row = [tool.name, tool.proves]
        row.append(report.spread([size / MIB / cost.wall_s for cost in costs]))
        row.append(report.spread([cost.cpu_s / size * GIB for cost in costs], ".2f"))
        row.append(f"{statistics.median(hub_cpu[tool.name]) / size * GIB:.2f}")
        row.append(f"{statistics.median(_faster(costs, reference)):.2f}" if reference else "–")
        row.append(f"{statistics.median(_cpu(costs, reference)):.2f}" if reference else "–")
        rows.append(row)
    head = ("tool", "proves", "MiB/s", "client CPU s/GiB", "server CPU s/GiB")
    report.table((*head, "throughput ratio", "CPU ratio"), rows)
    print("Medians [min..max]; the last two columns are medians of ratios to huggingface_hub.\n")


def _print_goals(rounds: Rounds) -> None:
    ours, theirs = rounds.get(ZHCACHED.name), rounds.get(HUGGINGFACE.name)
    goals: list[tuple[str, ...]] = []
    if ours and theirs:
        faster, cpu = _faster(ours, theirs), _cpu(ours, theirs)
        meaning = "throughput / huggingface_hub's"
        goals.append(report.goal(meaning, ">= 1.8", faster, statistics.median(faster) >= 1.8))
        meaning = "CPU per GiB / huggingface_hub's"
        goals.append(report.goal(meaning, "<= 0.5", cpu, statistics.median(cpu) <= 0.5))
    for other in (HASHLIB, OPENSSL):
        if ours and (costs := rounds.get(other.name)):
            cpu = _cpu(ours, costs)
            meaning = f"CPU per GiB / {other.name}'s"
            goals.append(report.goal(meaning, "<= 1.5", cpu, statistics.median(cpu) <= 1.5))
    if ours and (floor := rounds.get(FLOOR.name)):
        faster = _faster(floor, ours)
        meaning = "what the hub can send / zhcached's throughput"
        goals.append(report.goal(meaning, "> 1", faster, statistics.median(faster) > 1))
    if goals:
        report.table(("zhcached", "goal", "median [min..max] over rounds", ""), goals)


def _faster(costs: list[Cost], others: list[Cost]) -> list[float]:
    return [theirs.wall_s / ours.wall_s for ours, theirs in zip(costs, others, strict=True)]


def _cpu(costs: list[Cost], others: list[Cost]) -> list[float]:
    return [ours.cpu_s / theirs.cpu_s for ours, theirs in zip(costs, others, strict=True)]


if __name__ == "__main__":
    main()
