"""What kill -9 costs: bytes fetched again, by the hub's own log.

The process that downloads is killed at seeded random moments of one download and started anew;
what the hub has sent beyond the file's size was fetched again. For zhcached a kill's loss is
what was sent since the last restart less what became durable by the journal. Of it, what is in the
file was received and not journaled yet; the rest was still in the sockets' buffers.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import FILE, REPO, machine, report
from benchmarks.hubs import random_file
from demohub import Hub
from harness.daemon import Daemon, source, until
from zhcached.store.flushing import SYNC_BYTES, SYNC_SECONDS
from zhcached.store.journal import Journal
from zhcached.store.ranges import Ranges

MIB = 2**20
_DEADLINE_S = 600.0
_BLOCK = 16 << 10


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the file")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--rate",
        type=int,
        action="append",
        help="of the hub, MiB/s and connection, 0 for no limit; may be repeated (default: 32, 0)",
    )
    options = parser.parse_args()
    report.title("Bytes fetched again after kill -9")
    about = machine.describe(["huggingface_hub"])
    folder = Path(tempfile.gettempdir())
    report.facts(
        about
        | {
            "file": f"{options.size} MiB, random",
            "kills": f"{options.kills}, at random bytes of the download (seed {options.seed})",
            "journal step": f"{SYNC_BYTES // MIB} MiB or {SYNC_SECONDS:g} s of one file",
            "file system": machine.filesystem(folder),
            "load before": machine.load(),
        }
    )
    results = []
    with tempfile.TemporaryDirectory(prefix="zhcache-bench-") as temporary:
        original = random_file(Path(temporary) / "repo", options.size * MIB)
        for rate in options.rate or [32, 0]:
            results += _at_rate(rate, original, Path(temporary) / str(rate), options)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"machine": about, "results": results})


def _at_rate(
    rate: int, original: Path, folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    size = original.stat().st_size
    moments = sorted(random.Random(options.seed).sample(range(_latest(size)), options.kills))
    results = []
    for measure in (_zhcached, _huggingface_hub):
        with Hub() as hub:
            hub.add(REPO, {FILE: original})
            if rate:
                hub.fault("rate", rate=rate * MIB, plane="bytes")
            results.append(measure(hub, folder / measure.__name__, original, moments))
    print(f"## Hub: {f'{rate} MiB/s for each connection' if rate else 'no limit'}\n")
    _print_results(results, size)
    return [{"rate": rate, "size": size, "moments": moments, **result} for result in results]


def _latest(size: int) -> int:
    """Leaves room at the end: who has the whole file when the signal comes loses nothing."""
    return size * 9 // 10


def _print_results(results: list[dict[str, Any]], size: int) -> None:
    rows = []
    for result in results:
        again = result["sent"] - size
        row = [result["tool"], f"{again / MIB:.1f} MiB", f"{again / size:.2f} x the file"]
        row += [f"{result['unread'] / MIB:.1f}", report.spread(result["lost"], ".1f", 1 / MIB)]
        row += _against_the_step(result["unjournaled"], result["connections"])
        rows.append(row)
    report.table(
        (
            "tool",
            "fetched again",
            "",
            "of it after the last kill, MiB",
            "lost by a kill, MiB",
            "of it received, not journaled",
            "connections",
            "in journal steps per connection",
        ),
        rows,
    )


def _against_the_step(unjournaled: list[int], connections: list[int]) -> list[str]:
    if not unjournaled:
        return ["–"] * 3
    steps = [loss / SYNC_BYTES / n for loss, n in zip(unjournaled, connections, strict=True)]
    return [
        report.spread(unjournaled, ".1f", 1 / MIB),
        f"{min(connections)}..{max(connections)}",
        report.spread(steps, ".2f"),
    ]


def _zhcached(hub: Hub, folder: Path, original: Path, moments: list[int]) -> dict[str, Any]:
    size = original.stat().st_size
    folder.mkdir(parents=True)
    daemon = Daemon(folder, source(hub))
    lost, unjournaled, connections = [], [], []
    sent_before = durable_before = 0
    daemon.start()
    job = daemon.cli("prefetch", REPO, "--detach", "--quiet").stdout.strip()
    try:
        for number, moment in enumerate(moments):
            # Moments are counted in new bytes, so that all kills fall within the download.
            _await(hub, sent_before + moment - durable_before, number)
            connections.append(_open_connections(hub))
            daemon.kill()
            sent, durable = _settled(hub), _journaled(daemon.home, size)
            lost.append(sent - sent_before - (durable - durable_before))
            unjournaled.append(_received(daemon.home, original) - durable)
            sent_before, durable_before = sent, durable
            report.say(f"zhcached: kill {number + 1} lost {lost[-1] / MIB:.1f} MiB")
            daemon.start()
        daemon.cli("wait", job, timeout=_DEADLINE_S)
        daemon.cli("verify", timeout=_DEADLINE_S)
    finally:
        daemon.stop()
    more = {"unjournaled": unjournaled, "connections": connections}
    return _result("zhcached", hub, size, lost) | more


def _huggingface_hub(hub: Hub, folder: Path, original: Path, moments: list[int]) -> dict[str, Any]:
    folder.mkdir(parents=True)
    environ = os.environ | {
        "HOME": str(folder),
        "HF_HOME": str(folder / "hf"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    script = f"from huggingface_hub import hf_hub_download as f; f({REPO!r}, {FILE!r})"
    lost = []
    before = 0
    for number, moment in enumerate(moments):
        process = subprocess.Popen([sys.executable, "-c", script], env=environ)
        try:
            _await(hub, before + moment, number)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        sent = _settled(hub)
        lost.append(sent - before)
        before = sent
        report.say(f"huggingface_hub: kill {number + 1} lost {lost[-1] / MIB:.1f} MiB")
    subprocess.run([sys.executable, "-c", script], env=environ, check=True)
    more = {"unjournaled": [], "connections": []}
    return _result("huggingface_hub", hub, original.stat().st_size, lost) | more


def _result(tool: str, hub: Hub, size: int, lost: list[int]) -> dict[str, Any]:
    sent = _settled(hub)
    # What came after the last kill and was not read: the later half of a stretch that another
    # connection took over.
    return {"tool": tool, "sent": sent, "unread": sent - size - sum(lost), "lost": lost}


def _sent(hub: Hub) -> int:
    return sum(r.sent for r in hub.requests if r.plane == "bytes" and r.status in (200, 206))


def _await(hub: Hub, bytes_sent: int, number: int) -> None:
    meaning = f"kill {number + 1} at {bytes_sent} bytes sent"
    _until(lambda: _sent(hub) >= bytes_sent, meaning)


def _settled(hub: Hub) -> int:
    """Returns what the hub has sent once it has noticed that the client is gone."""
    _until(lambda: all(r.is_settled for r in hub.requests), "the hub has seen the end")
    return _sent(hub)


def _until(claim: Callable[[], bool], meaning: str) -> None:
    until(claim, meaning, _DEADLINE_S)


def _open_connections(hub: Hub) -> int:
    return max(1, sum(not r.is_settled and r.plane == "bytes" for r in hub.requests))


def _journaled(home: Path, size: int) -> int:
    """Returns how many bytes of the file a restart will find."""
    found = Ranges()
    if any((home / "blobs" / "sha256").glob("*/*")):
        found.add(0, size)
    for path in (home / "ingest").glob("*/journal"):
        journal = Journal(path, size)
        for ranges in journal.replay(size).values():
            found.update(ranges)
        journal.close()
    return found.total


def _received(home: Path, original: Path) -> int:
    """Returns how many bytes of the file were written, to a block: elsewhere there are zeros."""
    size = original.stat().st_size
    found = 0
    for path in (home / "ingest").glob("*/data"):
        with path.open("rb") as ours, original.open("rb") as theirs:
            while block := theirs.read(_BLOCK):
                found += len(block) if ours.read(_BLOCK) == block else 0
    return found or (size if any((home / "blobs" / "sha256").glob("*/*")) else 0)


if __name__ == "__main__":
    main()
