"""One file from several sources at once: against one of them alone, and with one that stalls.

Each source is a hub in a process of its own, whose connections share one rate; rates are low, so
that neither the CPU nor the disk is the limit. The stall is SIGSTOP of a hub's process when 99 % of
the file are there: its connections stay open and say nothing more. Rounds are shuffled.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine, report
from benchmarks.hubs import HubProcess, random_file, serving
from zhcached.clock import SystemClock
from zhcached.config import DownloadConfig, StoreConfig
from zhcached.fetch.download import Control, Offer, obtain
from zhcached.fetch.limits import RateLimiter
from zhcached.fetch.offer import Sender
from zhcached.store.digest import Promise
from zhcached.store.store import Store
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Target, Transport

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Scenario:
    """Sources with their rates as multiples of the unit; the ``stalls``-th stops at 99 %."""

    name: str
    rates: tuple[float, ...]
    stalls: int | None = None


ALONE = Scenario("one source", (1,))
TWO = Scenario("two of the same rate", (1, 1))
THREE = Scenario("three, 1:2:4", (0.25, 0.5, 1))
FIRST_STALLS = Scenario("two, the first stalls at 99 %", (1, 1), stalls=0)
SECOND_STALLS = Scenario("two, the second stalls at 99 %", (1, 1), stalls=1)
SCENARIOS = (ALONE, TWO, THREE, FIRST_STALLS, SECOND_STALLS)


@dataclass(frozen=True, slots=True)
class Measured:
    """One download: seconds until it was a verified blob, and bytes by source."""

    wall_s: float
    fetched: dict[str, int]


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--size", type=int, default=192, metavar="MIB", help="of the file")
    parser.add_argument(
        "--rate", type=int, default=16, metavar="MIB", help="a second, of one source"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report.title("One file from several sources")
    about = machine.describe()
    busy = machine.load()
    shuffle, rounds = random.Random(options.seed), defaultdict[str, list[Measured]](list)
    with tempfile.TemporaryDirectory(prefix="zhcache-bench-") as served:
        original = random_file(Path(served) / "repo", options.size * MIB)
        with original.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        for number in range(options.rounds):
            for scenario in shuffle.sample(SCENARIOS, len(SCENARIOS)):
                came = _once(scenario, original, sha256, options.rate * MIB)
                rounds[scenario.name].append(came)
                sent = ", ".join(f"{n} {c / MIB:.1f}" for n, c in sorted(came.fetched.items()))
                report.say(f"{number + 1} {scenario.name}: {came.wall_s:.2f} s ({sent} MiB)")
    report.facts(
        about
        | {
            "file": f"{options.size} MiB, random",
            "a source's rate": f"{options.rate} MiB/s over all its connections; 1:2:4 is "
            + ", ".join(f"{rate * options.rate:g}" for rate in THREE.rates),
            "rounds": options.rounds,
            "file system": machine.filesystem(Path(tempfile.gettempdir())),
            "load before, after": f"{busy}, {machine.load()}",
        }
    )
    _print(rounds, options.size)
    raw = {name: [asdict(one) for one in came] for name, came in rounds.items()}
    report.write_json(options.json, {"machine": about, "scenarios": raw})


def _once(scenario: Scenario, original: Path, sha256: str, unit: int) -> Measured:
    size = original.stat().st_size
    with ExitStack() as running, tempfile.TemporaryDirectory(prefix="zhcache-bench-") as root:
        hubs = [
            running.enter_context(
                serving(original.parent, "--fault", f"line(rate={unit * rate:g})")
            )
            for rate in scenario.rates
        ]
        store = Store.open(Path(root) / "store", StoreConfig(min_free=0), SystemClock())
        running.callback(store.close)
        transport = Transport(AddressPolicy.of(hub.url for hub in hubs))
        running.callback(transport.close)
        control = Control()
        if scenario.stalls is not None:
            victim = hubs[scenario.stalls].pid
            control.on_bytes = _stopping(victim, size * 99 // 100)
            # Before the hub is asked to end, which it could not be while it is stopped.
            running.callback(os.kill, victim, signal.SIGCONT)
        began = time.monotonic()
        came = obtain(
            lambda: store.intake.begin(Promise(size=size, sha256=sha256), "benchmark"),
            [_offer(number, hub) for number, hub in enumerate(hubs, 1)],
            transport=transport,
            config=DownloadConfig(),
            limiter=RateLimiter(0),
            control=control,
        )
        measured = Measured(time.monotonic() - began, came.fetched)
        running.close()
        shutil.rmtree(root, ignore_errors=True)
    return measured


def _offer(number: int, hub: HubProcess) -> Offer:
    return Offer(f"hub-{number}", lambda: Target(hub.file_url))


def _stopping(pid: int, at: int) -> Callable[[Sender, int], None]:
    lock, so_far = threading.Lock(), [0]

    def on_bytes(_sender: Sender, count: int) -> None:
        with lock:
            before, so_far[0] = so_far[0], so_far[0] + count
            if before < at <= so_far[0]:
                os.kill(pid, signal.SIGSTOP)

    return on_bytes


def _print(rounds: dict[str, list[Measured]], size: int) -> None:
    rows = [
        [
            scenario.name,
            report.spread([one.wall_s for one in rounds[scenario.name]], ".2f"),
            report.spread([size / one.wall_s for one in rounds[scenario.name]], ".1f"),
            report.spread(
                [sum(o.fetched.values()) / MIB - size for o in rounds[scenario.name]], ".2f"
            ),
        ]
        for scenario in SCENARIOS
    ]
    report.table(("sources", "seconds", "MiB/s", "fetched twice, MiB"), rows)
    print("Medians [min..max]. A wall time ends when the bytes are a verified, durable blob.\n")
    alone = rounds[ALONE.name]
    faster = _ratios(alone, rounds[TWO.name])
    together = [r / sum(THREE.rates) for r in _ratios(alone, rounds[THREE.name])]
    goals = [
        _goal("two of the same rate / one alone", ">= 1.9", faster, lambda m: m >= 1.9),
        _goal("three at 1:2:4 / the sum of their rates", ">= 0.93", together, lambda m: m >= 0.93),
    ]
    for stalling in (FIRST_STALLS, SECOND_STALLS):
        slower = _ratios(rounds[stalling.name], alone)
        goals.append(
            _goal(f"{stalling.name}: time / one alone", "<= 1.1", slower, lambda m: m <= 1.1)
        )
    report.table(("what", "goal", "median [min..max] over rounds", ""), goals)


def _ratios(above: Sequence[Measured], below: Sequence[Measured]) -> list[float]:
    return [a.wall_s / b.wall_s for a, b in zip(above, below, strict=True)]


def _goal(
    meaning: str, bound: str, values: list[float], is_met: Callable[[float], bool]
) -> tuple[str, ...]:
    return report.goal(meaning, bound, values, is_met(statistics.median(values)))


if __name__ == "__main__":
    main()
