"""A real Ray cluster of two nodes, a zhcached with its own store on each, and one that is lost.

Needs ``pip install 'zhcache[cluster]'``, which the recipes leave out for its size; then
``make test ARGS="-m slow tests/journeys/test_cluster_ray.py"``.
"""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from harness import raychanges, raycluster
from harness.daemon import lines, source, until
from simulators.daemon import DaemonSimulator

pytest.importorskip("ray", reason="pip install 'zhcache[cluster]'")

pytestmark = [pytest.mark.journey, pytest.mark.slow, pytest.mark.timeout(900)]

LOCAL = """
import sys
from harness.raycluster import ARGUMENTS, batch
from zhcache import cluster
cluster.generate(*batch(), out=sys.argv[1], device="cpu", **ARGUMENTS)
"""


@pytest.fixture
def models(hub, pipeline_dir, tmp_path):
    """Two models that draw different images of one prompt."""
    other = tmp_path / "other"
    shutil.copytree(pipeline_dir, other)
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_end": 0.05}))
    for repo, folder in zip(raycluster.REPOS, (pipeline_dir, other), strict=True):
        hub.add(repo, {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()})


@pytest.fixture
def nodes(hub, models, make_daemon):
    daemons = [make_daemon(source(hub), name=name).start() for name in "ab"]
    for daemon in daemons:
        for repo in raycluster.REPOS:
            daemon.cli("prefetch", repo)
    return daemons


def script(daemon, tmp_path, *arguments):
    """Runs a script as the user of a node; returns what it said."""
    path = ":".join(str(Path(__file__).parents[2] / name) for name in ("", "daemon", "tests"))
    with (tmp_path / "script.log").open("ab") as log:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=daemon.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=log,
            timeout=2 * raycluster.STUCK_S,
            check=False,
        )
    assert done.returncode == 0, (tmp_path / "script.log").read_text()[-4000:]
    return [json.loads(one) for one in done.stdout.splitlines() if one.startswith(b"{")]


def loads(daemon):
    """Returns how often each instance was loaded, by the daemon's own log."""
    told = lines((daemon.home / "logs" / "zhcached.jsonl").read_text())
    return Counter(one["instance"] for one in told if one["event"] == "resident.ready")


def leases(daemon):
    shown = daemon.json("ps")["resident"]
    return sum(one["leases"] for one in shown if one["mode"] == "resident")


def images(folder):
    found = {}
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            found[path.name] = image.tobytes()
    return found


def test_batch_outlives_a_node_and_is_what_one_machine_makes(nodes, tmp_path):
    out, alone = tmp_path / "out", tmp_path / "alone"
    sockets = [str(daemon.socket) for daemon in nodes]
    _, served, said = script(
        nodes[0], tmp_path, "-m", "harness.raycluster", "lose", *sockets, str(out)
    )
    assert served["apps"][0] == served["apps"][1], "what is served already stays"
    assert served["proxies"] == 0, "nothing listens for calls"
    assert (said["made"], said["lost"]) == (100, [raycluster.LOSE_AFTER])

    journal = lines((out / "journal.jsonl").read_text())
    assert sorted(line["index"] for line in journal) == list(range(100))
    before = journal[: raycluster.LOSE_AFTER]
    homes = {(line["repo"], line["node"]) for line in before}
    assert len(homes) == len({node for _, node in homes}) == 2, "each model has one home, warm"
    for daemon in nodes:
        assert max(loads(daemon).values()) == 1, "nothing is loaded twice on a node"
    until(lambda: leases(nodes[1]) == 0, "the lost node's leases end")

    script(nodes[0], tmp_path, "-c", LOCAL, str(alone))
    assert len(images(out)) == 100
    assert images(out) == images(alone)
    assert max(loads(nodes[0]).values()) == 1, "what Ray left warm is warm without it"


def test_scripts_share_what_is_served_and_go_on_when_it_is_replaced(nodes, tmp_path):
    sockets = [str(daemon.socket) for daemon in nodes]
    said = script(nodes[0], tmp_path, "-m", "harness.raycluster", "share", *sockets)
    wrong, first, second, many, replaced, made = said
    assert (wrong["refused"], many["refused"]) == ("not_permitted", "usage")
    assert "token" in wrong["message"]
    assert [first["made"], second["made"]] == [6, 6], "one of them serves, the other joins"
    assert replaced["was"] != replaced["now"]
    assert replaced["there"] == [replaced["now"]]
    assert made["made"] == 100
    # Where a model is warm it stays, whichever home it has in what is served now.
    assert [*(loads(nodes[0]) + loads(nodes[1])).values()] == [1, 1], "nothing is loaded twice"


def test_node_that_leaves_in_peace_ends_what_it_began_and_hands_on_the_rest(nodes, tmp_path):
    sockets = [str(daemon.socket) for daemon in nodes]
    out = tmp_path / "out"
    arguments = ("-m", "harness.raychanges", "shrink", *sockets, str(out))
    _, said, homes = script(nodes[0], tmp_path, *arguments)
    assert (said["made"], said["last"]) == (26, said["left"])
    assert 0 < said["ended"] < raychanges.DEPTH, "what it had not begun was made elsewhere"
    assert sorted(len(by) for by in homes["before"].values()) == [1, 1]
    assert homes["after"] == homes["before"], "a model's home is its home again"
    for daemon in nodes:
        assert max(loads(daemon).values()) == 1, "nothing is loaded twice on a node"


def test_daemon_of_another_version_is_told_of_and_passed_by(nodes, tmp_path):
    with DaemonSimulator(tmp_path / "old.sock") as simulator:
        simulator.protocol_range = (2, 3)
        asked = (str(simulator.socket), str(nodes[1].socket), str(tmp_path / "out"))
        said = script(nodes[1], tmp_path, "-m", "harness.raychanges", "old", *asked)
    warned, seen, ended, resumed, refused = said
    assert len(warned["warned"]) == 1
    assert re.search(r"node \S+: the daemon .* \(upgrade zhcache", warned["warned"][0])
    assert (seen["failures"], seen["made"]) == (["version_mismatch"], 20)
    assert len({node for by in seen["by"].values() for node in by}) == 1
    assert ended["ended"] != 0
    assert raychanges.AFTER < ended["lines"] < 60
    assert resumed["made"] == 60
    journal = lines((tmp_path / "out" / "journal.jsonl").read_text())
    assert sorted(line["index"] for line in journal) == list(range(60)), "none is made again"
    assert (refused["refused"], refused["exit"]) == ("version_mismatch", 7)
    assert refused["hint"]


def test_cluster_that_lets_in_anybody_is_refused_unless_told_that_it_will_do(nodes, tmp_path):
    said = script(nodes[0], tmp_path, "-m", "harness.raycluster", "open", str(nodes[0].socket))
    refusals = [one["refused"] for one in said if "refused" in one]
    assert refusals == ["not_permitted", "usage", "not_found", "not_permitted", "not_permitted"], (
        said
    )
    # Two wait and two are there: nearly all of the twelve are refused at first, and waited for.
    assert [one["made"] for one in said if "made" in one] == [list(range(12))]
