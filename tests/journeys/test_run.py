"""Images from the shell, and a pipeline that stays warm for them, by the real daemon and worker."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from harness import families
from harness.daemon import DEADLINE_S, source, until

pytestmark = pytest.mark.journey

OPEN = """
import sys
from zhcache.resident.open import open_resident
with open_resident("org/pipe", device="cpu") as pipe:
    print("open", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def config(hub, pipeline_dir):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    return source(hub)


def rows(daemon):
    return daemon.json("ps")["resident"]


def test_run_fetches_and_makes_the_image_that_stock_makes(
    config, make_daemon, pipeline_dir, tmp_path
):
    daemon = make_daemon(config).start()
    ran = daemon.json(
        "run", "org/pipe", "a red house", "--seed", "7", "--steps", "2", "--device", "cpu",
        "--output", str(tmp_path / "ours.png"),
    )  # fmt: skip
    with Image.open(tmp_path / "ours.png") as ours:
        assert ours.tobytes() == families.image_of_stock(pipeline_dir, "a red house").tobytes()
    assert ran["images"][0]["seed"] == 7
    (row,) = rows(daemon)
    assert (row["mode"], row["device"], row["leases"]) == ("resident", "cpu", 0)


def test_warm_resident_is_listed_is_in_use_and_stops(config, make_daemon):
    daemon = make_daemon(config).start()
    result = daemon.json("warm", "org/pipe", "--resident", "--device", "cpu", "--for", "forever")
    assert (result["mode"], result["device"], result["expires"]) == ("resident", "cpu", None)
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN], env=daemon.environ, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "open\n"
    (row,) = rows(daemon)
    assert (row["mode"], row["leases"], row["uid"]) == ("resident", 1, os.getuid())
    assert daemon.json("stop", "org/pipe", code=75)["error"]["code"] == "busy"
    process.communicate("\n", timeout=DEADLINE_S)
    until(lambda: not rows(daemon)[0]["leases"], "the lease ends")
    assert daemon.json("stop", "org/pipe")["devices"] == ["cpu"]
    until(lambda: not rows(daemon), "the worker ends")


def test_warm_in_arenas_is_listed_and_stops(config, make_daemon):
    daemon = make_daemon(config + '[residency]\nhost = "arenas"\n').start()
    result = daemon.json("warm", "org/pipe", "--device", "cpu", "--for", "1h")
    assert result["bytes"] == result["bytes_resident"] > 0
    (row,) = rows(daemon)
    assert (row["device"], row["leases"], row["bytes"]) == ("cpu", 0, result["bytes"])
    assert row["expires"] == pytest.approx(result["expires"], abs=5)
    stopped = daemon.json("stop", "org/pipe")
    assert (stopped["bytes"], stopped["devices"]) == (result["bytes"], ["cpu"])
    assert rows(daemon) == []
