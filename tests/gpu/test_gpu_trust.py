"""A member of the group who writes into shared weights is found out by the next who attaches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPO = "test/tiny"
TESTS = Path(__file__).resolve().parents[1]


def test_gpu_changed_weights_are_found_by_the_checksum_and_filled_anew(
    cuda, make_daemon, painter, pipeline_dir
):
    daemon = make_daemon('[residency]\nshare = "group"\n')
    daemon.start()
    daemon.cli("import", str(pipeline_dir), "--repo", REPO)
    first = painter("attach", cuda, REPO, daemon)
    before = first.ask("draw")
    changed = _intrude(daemon)
    assert changed >= 3
    # What the next client gets is right again, whatever the first one sees from now on.
    second = painter("attach", cuda, REPO, daemon)
    assert second.ask("draw")["digest"] == before["digest"]
    logged = (daemon.home / "logs" / "zhcached.jsonl").read_text()
    assert logged.count("arena.damaged") == changed


def test_gpu_weights_that_are_changed_again_are_refused(cuda, make_daemon, painter, pipeline_dir):
    daemon = make_daemon('[residency]\nshare = "group"\n')
    daemon.start()
    daemon.cli("import", str(pipeline_dir), "--repo", REPO)
    painter("attach", cuda, REPO, daemon).ask("draw")
    _intrude(daemon)
    painter("attach", cuda, REPO, daemon).ask("draw")
    _intrude(daemon)
    done = _run(daemon, "harness.painter", "attach", cuda, REPO)
    assert done.returncode, done.stdout
    assert "changed again" in done.stderr, done.stderr


def test_gpu_off_shares_nothing(cuda, make_daemon, painter, pipeline_dir):
    daemon = make_daemon('[residency]\nshare = "off"\n')
    daemon.start()
    daemon.cli("import", str(pipeline_dir), "--repo", REPO)
    first = painter("attach", cuda, REPO, daemon)
    before = first.ask("draw")
    _intrude(daemon)
    assert first.ask("draw")["digest"] == before["digest"]


def _intrude(daemon) -> int:
    done = _run(daemon, "harness.intruder", REPO)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def _run(daemon, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        input="draw\n",
        capture_output=True,
        text=True,
        timeout=120,
        env=daemon.environ | {"PYTHONPATH": str(TESTS)},
        check=False,
    )
