"""What zhcache costs when it does nothing much: imports, the idle daemon, listings of large stores.

Times of commands are those of the whole process, from its start to its end.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, report, stores
from benchmarks.cost import cpu_s, memory_kib, run
from harness.daemon import BIN, Daemon
from zhcache.client import Client
from zhcache.errors import DaemonUnreachable
from zhcached.clock import SystemClock
from zhcached.store.store import Store

SIZES = (100, 1_000, 10_000, 100_000)
_IDLE_S = 10.0
_MS = 1000.0

_IMPORTS = {
    "bare interpreter": "pass",
    "import zhcache": "import zhcache",
    "zhcache.Client": "import zhcache; zhcache.Client",
    "zhcache.load_pipeline": "import zhcache; zhcache.load_pipeline",
    "import huggingface_hub": "import huggingface_hub",
    "hf_hub_download": "from huggingface_hub import hf_hub_download",
    "modelscope snapshot_download": "from modelscope import snapshot_download",
}


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--files", type=int, action="append", help="in the store; may be repeated")
    parser.add_argument(
        "--folder", type=Path, default=Path("/dev/shm"), help="where the large stores are made"
    )
    options = parser.parse_args()
    report.title("Footprint")
    about = machine.describe(["huggingface_hub", "modelscope"])
    told = {"repeated": options.repeat, "load before": machine.load()}
    report.facts(about | told | {"large stores on": machine.filesystem(options.folder)})
    with tempfile.TemporaryDirectory(prefix="zhcache-bench-") as temporary:
        found = {
            "imports": _imports(options.repeat),
            "daemon": _daemon(Path(temporary), options.repeat),
        }
    found["growth"] = _growth(options)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"machine": about, **found})


def _imports(repeat: int) -> dict[str, Any]:
    walls: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    count = "import sys; print(len(sys.modules), 'torch' in sys.modules)"
    modules = {}
    for name, code in _IMPORTS.items():
        report.say(name)
        told = subprocess.check_output([sys.executable, "-c", f"{code}\n{count}"], text=True)
        modules[name] = told.split()
    for _ in range(repeat):
        for name, code in _IMPORTS.items():
            walls[name].append(run([sys.executable, "-c", code]).wall_s)
    bare = walls["bare interpreter"]
    base = int(modules["bare interpreter"][0])
    report.table(
        ("in a fresh interpreter", "wall ms", "ms above bare (median)", "modules", "torch"),
        [
            (
                name,
                report.spread(costs, ".0f", _MS),
                f"{(statistics.median(costs) - statistics.median(bare)) * _MS:.0f}",
                f"{int(modules[name][0]) - base} more" if code != "pass" else base,
                {"True": "loaded", "False": "no"}[modules[name][1]],
            )
            for (name, code), costs in zip(_IMPORTS.items(), walls.values(), strict=True)
        ],
    )
    return {"wall_s": walls, "modules": modules}


def _daemon(folder: Path, repeat: int) -> dict[str, Any]:
    report.say("daemon")
    starts = []
    daemon = Daemon(folder)
    for _ in range(repeat):
        starts.append(_start(daemon))
        assert daemon.process is not None
        daemon.stop()
    _start(daemon)
    try:
        pid = daemon.process.pid
        before = cpu_s(pid)
        time.sleep(_IDLE_S)
        idle = cpu_s(pid) - before
        memory = memory_kib(pid)
        walls = {command: _command(daemon, repeat, command) for command in ("ls", "--version")}
    finally:
        daemon.stop()
    report.table(
        ("daemon and command line", "value"),
        [
            ("start to first answer, empty store", report.spread(starts, ".0f", _MS) + " ms"),
            ("idle RSS", f"{memory['Rss'] / 1024:.0f} MiB"),
            ("idle PSS", f"{memory['Pss'] / 1024:.0f} MiB"),
            (f"CPU in {_IDLE_S:g} idle seconds", f"{idle:.2f} s"),
            *((f"zhcache {k}", report.spread(v, ".0f", _MS) + " ms") for k, v in walls.items()),
        ],
    )
    return {"start_s": starts, "memory_kib": memory, "idle_cpu_s": idle, "commands_s": walls}


def _start(daemon: Daemon) -> float:
    """Starts the daemon and returns the seconds until it answered a first request."""
    daemon.socket.unlink(missing_ok=True)
    began = time.perf_counter()
    daemon.process = subprocess.Popen(
        [sys.executable, "-m", "zhcached"], env=daemon.environ, stderr=subprocess.DEVNULL
    )
    with Client(daemon.socket) as client:
        while True:
            try:
                client.version()
            except DaemonUnreachable:
                if daemon.process.poll() is not None:
                    raise RuntimeError("zhcached ended") from None
                time.sleep(0.002)
            else:
                return time.perf_counter() - began


def _command(daemon: Daemon, repeat: int, *arguments: str) -> list[float]:
    command = [BIN / "zhcache", *arguments]
    return [run(command, daemon.environ).wall_s for _ in range(repeat)]


def _growth(options: argparse.Namespace) -> list[dict[str, Any]]:
    sizes = options.files or SIZES
    clock = SystemClock()
    found = []
    for shared in (False, True):
        with tempfile.TemporaryDirectory(prefix="zhcache-bench-", dir=options.folder) as temporary:
            have = 0
            daemon = Daemon(Path(temporary))
            for want in sizes:
                began = time.perf_counter()
                blobs = stores.grow(daemon.home, clock, have, want, shared=shared)
                built_s = time.perf_counter() - began
                kind = "shared" if shared else "own"
                report.say(f"{kind}: {want} files, {blobs} blobs made in {built_s:.0f} s")
                have = want
                found.append({"kind": kind, "files": want, "blobs": blobs})
                found[-1] |= _listings(daemon, options.repeat)
    _print_growth(found, sizes)
    return found


def _listings(daemon: Daemon, repeat: int) -> dict[str, Any]:
    began = time.perf_counter()
    store = Store.open(daemon.home, stores.CONFIG, SystemClock())
    opened_s = time.perf_counter() - began
    try:
        calls = {
            "ls_call_s": _timed(store.snapshots, repeat),
            "gc_call_s": _timed(lambda: store.gc(dry_run=True), repeat),
        }
    finally:
        store.close()
    start_s = _start(daemon)
    try:
        assert daemon.process is not None
        commands = {
            "ls_s": _command(daemon, repeat, "ls"),
            "ls_json_s": _command(daemon, repeat, "ls", "--json"),
            "gc_json_s": _command(daemon, repeat, "gc", "--dry-run", "--json"),
        }
        memory = memory_kib(daemon.process.pid)
    finally:
        daemon.stop()
    return calls | commands | {"open_s": opened_s, "start_s": start_s, "rss_kib": memory["Rss"]}


def _timed(call: Callable[[], object], repeat: int) -> list[float]:
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return taken


def _print_growth(found: list[dict[str, Any]], sizes: Sequence[int]) -> None:
    print(
        f"Each repository has two commits of {stores.FILES_EACH} files; `shared`: the second has"
        f" {stores.FILES_EACH - stores.CHANGED} contents of the first, `own`: none. Medians, ms.\n"
    )
    columns = {
        "`ls`, store call": "ls_call_s",
        "`gc --dry-run`, store call": "gc_call_s",
        "`zhcache ls`": "ls_s",
        "`zhcache ls --json`": "ls_json_s",
        "`zhcache gc --dry-run --json`": "gc_json_s",
    }
    rows = []
    for one in found:
        row = [one["kind"], f"{one['files']:,}", f"{one['blobs']:,}"]
        row += [f"{statistics.median(one[key]) * _MS:.1f}" for key in columns.values()]
        row += [f"{one[key] * _MS:.0f}" for key in ("open_s", "start_s")]
        rows.append([*row, f"{one['rss_kib'] / 1024:.0f}"])
    head = ("blobs are", "files", "blobs", *columns)
    report.table((*head, "opening the store", "daemon's start", "its RSS, MiB"), rows)


if __name__ == "__main__":
    main()
