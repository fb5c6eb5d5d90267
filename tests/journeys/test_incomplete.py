"""Pipelines that lack files their index names: what may be fetched is, and the rest is told."""

import json
import subprocess
import sys

import pytest

from harness.daemon import source
from harness.spoilt import GAPS, spoilt

pytestmark = pytest.mark.journey

LOAD = """
import json, sys, zhcache
try:
    zhcache.load_pipeline("org/pipe", device="cpu", mode=sys.argv[1])
except zhcache.ZhcacheError as error:
    print(json.dumps([error.code, error.message, error.hint]))
"""


def publish(hub, folder):
    hub.add("org/pipe", {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()})


def refusal(daemon, mode: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, mode], env=daemon.environ, capture_output=True, text=True
    )
    assert done.stdout, done.stderr + daemon.tail()
    return json.loads(done.stdout)


# Each loads in four ways; the units know them all.
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] * (way != "no shard")) for way in GAPS]
)
def test_what_was_published_incomplete_is_told_alike_in_every_mode(
    hub, make_daemon, pipeline_dir, tmp_path, way
):
    publish(hub, spoilt(pipeline_dir, tmp_path, way))
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/pipe")
    attached = refusal(daemon, "attach")
    assert attached[0] == "incomplete"
    assert refusal(daemon, "resident") == attached
    told = daemon.json("run", "org/pipe", "a prompt", "--device", "cpu", code=9)["error"]
    assert [told["code"], told["message"], told["hint"]] == attached


def test_what_was_left_out_is_fetched(hub, make_daemon, pipeline_dir):
    publish(hub, pipeline_dir)
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/pipe", "--exclude", "unet/*")
    arguments = ("--seed", "1", "--steps", "1", "--device", "cpu", "--output", str(daemon.folder))
    assert len(daemon.json("run", "org/pipe", "a prompt", *arguments)["images"]) == 1
