"""Pictures measured with models of a real store, whose hub is gone by then."""

import pytest

from demohub import Hub
from harness import visionkit
from harness.daemon import source

pytestmark = pytest.mark.journey

PROMPTS = ["一只小猫", "红色的椅子", "山水画"]
KINDS = ("chinese_clip", "siglip")


def test_models_are_fetched_once_and_measure_without_a_line(make_daemon, tmp_path):
    with Hub() as hub:
        for kind in KINDS:
            folder = visionkit.build(kind, tmp_path / "models" / kind)
            visionkit.publish(hub, f"lab/{kind}", folder)
        daemon = make_daemon(source(hub)).start()
        daemon.cli("prefetch", *(f"lab/{kind}" for kind in KINDS))
    a = visionkit.drawn(tmp_path / "a", PROMPTS)
    b = visionkit.drawn(tmp_path / "b", PROMPTS, off=0.4)
    judges = [word for kind in KINDS for word in ("--judge", f"lab/{kind}")]
    report = tmp_path / "report.html"
    found = daemon.json(
        "eval", str(a), str(b), "--extractor", "lab/chinese_clip", *judges, "--device", "cpu",
        "--html", str(report),
    )  # fmt: skip
    rows = {(row["metric"], (row["by"] or "").partition("@")[0]): row for row in found["metrics"]}
    commits = {row["by"].partition("@")[2] for row in found["metrics"] if row["by"]}
    assert all(len(commit) == 40 for commit in commits)
    for kind in KINDS:
        row = rows["score", f"lab/{kind}"]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["value"] == pytest.approx(row["b"] - row["a"])
    assert rows["distance", "lab/chinese_clip"]["value"] > 0
    assert rows["cmmd", "lab/chinese_clip"]["error"] > 0
    assert report.stat().st_size > 10_000
    # Nothing is leased any more.
    assert daemon.json("ps")["resident"] == []
