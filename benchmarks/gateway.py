"""The gateway beside nginx and olah: what is here already, and what comes from a hub first.

Warm: one file that each server has, fetched by curl to nowhere, one client and several at once;
throughput, and CPU of the server's processes for each GiB. Cold: twenty clients at once ask for a
file that only the hub has; what the hub sent, and when the first byte came. Rounds are shuffled.
nginx serves the bare file and is the measure for the warm part; olah is another mirror of hubs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import FILE, REPO, machine, report
from benchmarks.cost import Cost
from benchmarks.hubs import random_file
from benchmarks.servers import KINDS, Server, crowd
from demohub import Hub

MIB, GIB = 2**20, 2**30
COLD_CLIENTS = 20


@dataclass(frozen=True, slots=True)
class Warm:
    """One measurement: the clients' wall time, the server's CPU time, in seconds."""

    wall_s: float
    server_cpu_s: float
    client_cpu_s: float
    bytes: int

    @property
    def cpu_s(self) -> float:
        """Of both sides. Over loopback the kernel's work for a byte is put down to either."""
        return self.server_cpu_s + self.client_cpu_s


@dataclass(frozen=True, slots=True)
class Cold:
    """One measurement: seconds, and bytes that the hub sent of the file."""

    wall_s: float
    first_byte_s: float
    last_first_byte_s: float
    upstream: int


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the warm file")
    parser.add_argument("--cold-size", type=int, default=128, metavar="MIB")
    parser.add_argument("--clients", type=int, default=8, help="at once, beside one alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nginx", type=Path, help="the program, if it is not on the path")
    parser.add_argument("--olah", type=Path, help="olah-cli, if it is not on the path")
    options = parser.parse_args()
    report.title("Gateway")
    about = machine.describe(["aiohttp"], ["curl"])
    report.facts(about | {"file": f"{options.size} MiB, random", "rounds": options.rounds})
    with tempfile.TemporaryDirectory(prefix="zhcache-bench-") as name:
        folder = Path(name)
        warm = _measure_warm(folder, options)
        _print_warm(warm, options)
        cold = _measure_cold(folder, options)
        _print_cold(cold, options)
    report.write_json(
        options.json,
        {
            "machine": about,
            "warm": {f"{kind} x{n}": [asdict(m) for m in ms] for (kind, n), ms in warm.items()},
            "cold": {kind: [asdict(m) for m in ms] for kind, ms in cold.items()},
        },
    )


def _programs(options: argparse.Namespace) -> dict[str, str]:
    """Returns the kinds of server that can run here, with the program of each."""
    given = {"nginx": options.nginx, "olah": options.olah}
    found: dict[str, str] = {}
    for kind, needs in (("zhcache", "zhcache"), ("nginx", "nginx"), ("olah", "olah-cli")):
        program = shutil.which(str(given.get(kind) or needs))
        if program is None and kind != "zhcache":
            report.say(f"{kind} is left out: {needs} is not installed")
            continue
        found[kind] = program or ""
    return found


def _hub(folder: Path, size: int) -> Hub:
    original = random_file(folder, size)
    hub = Hub()
    hub.add(REPO, {FILE: original})
    return hub


def _measure_warm(folder: Path, options: argparse.Namespace) -> dict[tuple[str, int], list[Warm]]:
    size = options.size * MIB
    measured: dict[tuple[str, int], list[Warm]] = defaultdict(list)
    with ExitStack() as stack:
        hub = stack.enter_context(_hub(folder / "warm", size))
        servers: dict[str, Server] = {}
        for kind, program in _programs(options).items():
            place = folder / f"warm-{kind}"
            place.mkdir()
            servers[kind] = stack.enter_context(KINDS[kind](program, hub, folder / "warm", place))
            crowd(servers[kind].file_url, 1)
        print(f"## Warm\n\nLoad before: {machine.load()}", end="; ")
        tasks = [(kind, count) for kind in servers for count in (1, options.clients)]
        shuffle = random.Random(options.seed)
        for number in range(options.rounds):
            for kind, count in shuffle.sample(tasks, len(tasks)):
                one = _warm_once(servers[kind], count, size)
                measured[kind, count].append(one)
                report.say(
                    f"{number + 1} {kind} x{count}: {one.bytes / MIB / one.wall_s:.0f} MiB/s"
                )
        print(f"after: {machine.load()}.\n")
    return measured


def _warm_once(server: Server, clients: int, size: int) -> Warm:
    before = server.cpu_s()
    fetched = crowd(server.file_url, clients)
    _check(fetched.bytes, [size] * clients)
    cost: Cost = fetched.cost
    return Warm(cost.wall_s, server.cpu_s() - before, cost.cpu_s, size * clients)


def _measure_cold(folder: Path, options: argparse.Namespace) -> dict[str, list[Cold]]:
    size = options.cold_size * MIB
    measured: dict[str, list[Cold]] = defaultdict(list)
    kinds = {kind: name for kind, name in _programs(options).items() if kind != "nginx"}
    shuffle = random.Random(options.seed)
    with _hub(folder / "cold", size) as hub:
        print(f"## Cold\n\nLoad before: {machine.load()}", end="; ")
        for number in range(options.rounds):
            for kind in shuffle.sample(list(kinds), len(kinds)):
                place = Path(tempfile.mkdtemp(dir=folder))
                with KINDS[kind](kinds[kind], hub, folder / "cold", place) as server:
                    one = _cold_once(server, hub, size)
                measured[kind].append(one)
                report.say(f"{number + 1} {kind}: hub sent {one.upstream / size:.2f} of the file")
        print(f"after: {machine.load()}.\n")
    return measured


def _cold_once(server: Server, hub: Hub, size: int) -> Cold:
    before = hub.sent(FILE)
    fetched = crowd(server.file_url, COLD_CLIENTS)
    _check(fetched.bytes, [size] * COLD_CLIENTS)
    return Cold(
        fetched.cost.wall_s,
        statistics.median(fetched.first_byte_s),
        max(fetched.first_byte_s),
        hub.sent(FILE) - before,
    )


def _check(came: list[int], expected: list[int]) -> None:
    if came != expected:
        raise RuntimeError(f"clients were given {came} bytes, not {expected}")


def _print_warm(measured: dict[tuple[str, int], list[Warm]], options: argparse.Namespace) -> None:
    rows: list[list[str]] = []
    for (kind, clients), ones in sorted(measured.items(), key=lambda item: item[0][1]):
        beside = measured.get(("nginx", clients))
        row = [kind, str(clients), report.spread([m.bytes / MIB / m.wall_s for m in ones])]
        row.append(report.spread([m.server_cpu_s / m.bytes * GIB for m in ones], ".2f"))
        row.append(report.spread([m.cpu_s / m.bytes * GIB for m in ones], ".2f"))
        row += _ratios(ones, beside) if beside else ["–", "–", "–"]
        rows.append(row)
    head = ("server", "clients", "MiB/s, all", "server CPU s/GiB", "both sides' CPU s/GiB")
    ratios = ("throughput / nginx", "server CPU / nginx", "both sides' CPU / nginx")
    report.table((*head, *ratios), rows)
    goals: list[tuple[str, ...]] = []
    for clients in (1, options.clients):
        ours, theirs = measured["zhcache", clients], measured.get(("nginx", clients))
        if not theirs:
            continue
        pairs = list(zip(ours, theirs, strict=True))
        server = [o.server_cpu_s / t.server_cpu_s for o, t in pairs]
        both = [o.cpu_s / t.cpu_s for o, t in pairs]
        for whose, cpu in (("server's", server), ("both sides'", both)):
            meaning = f"{whose} CPU per GiB / with nginx, {clients} at once"
            goals.append(report.goal(meaning, "<= 1.5", cpu, statistics.median(cpu) <= 1.5))
    if goals:
        report.table(("zhcache", "goal", "median [min..max] over rounds", ""), goals)


def _ratios(ones: list[Warm], beside: list[Warm]) -> list[str]:
    pairs = list(zip(ones, beside, strict=True))
    faster = [theirs.wall_s / ours.wall_s for ours, theirs in pairs]
    server = [ours.server_cpu_s / theirs.server_cpu_s for ours, theirs in pairs]
    both = [ours.cpu_s / theirs.cpu_s for ours, theirs in pairs]
    return [f"{statistics.median(ratio):.2f}" for ratio in (faster, server, both)]


def _print_cold(measured: dict[str, list[Cold]], options: argparse.Namespace) -> None:
    size = options.cold_size * MIB
    rows = [
        [
            kind,
            report.spread([m.upstream / size for m in ones], ".3f"),
            report.spread([m.first_byte_s for m in ones], ".2f"),
            report.spread([m.last_first_byte_s for m in ones], ".2f"),
            report.spread([m.wall_s for m in ones], ".1f"),
        ]
        for kind, ones in measured.items()
    ]
    head = ("server", "hub's bytes / file", "first byte, median client, s", "last client's, s")
    print(f"{COLD_CLIENTS} clients at once, a file of {options.cold_size} MiB.\n")
    report.table((*head, "all served, s"), rows)
    ours = [m.upstream / size for m in measured["zhcache"]]
    once = all(m.upstream == size for m in measured["zhcache"])
    report.table(
        ("zhcache", "goal", "median [min..max] over rounds", ""),
        [report.goal("hub's bytes / file", "= 1", ours, once)],
    )


if __name__ == "__main__":
    main()
