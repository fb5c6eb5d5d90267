"""``zhcache adapter train``: into the store, broken off and gone on with, refused."""

import json
import os
import signal
from pathlib import Path

import pytest

from harness import families
from harness.adapterkit import captions, pairs_file
from harness.daemon import Daemon
from zhcache.chinese.adapter import checkpoint, network

pytestmark = pytest.mark.journey
SMALL = ("--width", "32", "--layers", "1", "--batch", "24", "--held-out", "12", "--lr", "5e-3")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """Has two tiny pipelines; no network at all."""
    alone = {"OMP_NUM_THREADS": "1"}
    daemon = Daemon(tmp_path_factory.mktemp("adapters"), environ=alone).start()
    for name in ("sd15", "sdxl"):
        daemon.cli("import", str(families.folder(name)), "--repo", f"demo/{name}")
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A file of a hundred pairs and one line that is none."""
    known = captions()
    file = pairs_file(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", known + known[:4])
    with file.open("ab") as more:
        more.write(b"{nothing}\n")
    return str(file)


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("base", "shapes"),
    [
        ("sd15", {"prompt_embeds": [[1, 77, 32]] * 2}),
        pytest.param(
            "sdxl",
            {"prompt_embeds": [[1, 77, 64]] * 2, "pooled_prompt_embeds": [[32]] * 2},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_trained_is_in_the_store_and_better_than_nothing(
    daemon, pairs, tmp_path, base, shapes
):
    out = tmp_path / "left"
    command = ("adapter", "train", f"demo/{base}", "--pairs", pairs, "--name", f"of-{base}")
    done = daemon.cli(*command, *SMALL, "--steps", "60", "--out", str(out), "--json")
    bad = "1 lines are not pairs and were left out; the first of them: 101"
    assert bad in done.stderr
    told = lines(done.stdout)
    measured = [one for one in told if one.get("heldout_error") is not None]
    result = told[-1]
    assert measured[0]["step"] == 0
    assert measured[0]["heldout_error"] > 0.8
    assert result["quality"]["heldout_error"] < 0.8
    assert result["quality"]["retrieval"] >= measured[0]["retrieval"]
    shown = daemon.json("show", f"adapters/of-{base}")
    assert shown["commit"] == result["commit"]
    assert {file["path"] for file in shown["files"]} == {
        str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()
    }
    about = json.loads((out / "zhcache_adapter.json").read_text())
    held = {file["sha256"] for file in daemon.json("show", f"demo/{base}")["files"]}
    assert set(about["base"]["text_encoders"]) <= held
    assert about["quality"] == result["quality"]
    assert "中文" in (out / "README.md").read_text()
    embeds, _ = network.load(Path(result["path"])).encode(["红色的猫", ""])
    assert {name: [list(one.shape) for one in found] for name, found in embeds.items()} == shapes
    assert not (
        daemon.folder / "user/.local/state/zhcache/adapters" / f"adapters--of-{base}"
    ).exists()


def test_what_was_killed_or_stopped_goes_on(daemon, pairs, tmp_path):
    work = tmp_path / "work"
    command = ("adapter", "train", "demo/sd15", "--pairs", pairs, "--name", "broken-off", *SMALL)
    command += ("--steps", "100000", "--checkpoint-every", "0", "--work", str(work), "--json")
    killed = daemon.popen(*command)
    seen = 0
    for line in killed.stdout:
        seen = json.loads(line)["step"]
        if seen >= 3:
            break
    killed.kill()
    rest = killed.communicate()[0].splitlines(keepends=True)
    seen = max([seen, *(json.loads(line)["step"] for line in rest if line.endswith("\n"))])
    stopped = daemon.popen(*command)
    went_on = None
    for line in stopped.stdout:
        told = json.loads(line)
        if told["stage"] == "resumed":
            went_on = told["step"]
        if told["stage"] == "training" and told["step"] > (went_on or 0):
            break
    os.kill(stopped.pid, signal.SIGINT)
    answer, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    # What was told was kept before.
    assert went_on >= seen >= 3
    error = lines(answer)[-1]["error"]
    assert error["hint"] == "the same command goes on from there"
    kept = int(error["message"].split()[3])
    assert kept > went_on
    assert checkpoint.read(work).step == kept


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        pytest.param(
            ("demo/nothing",), 4, "demo/nothing is not in the store", marks=pytest.mark.slow
        ),
        pytest.param(("--resume",), 4, "no unfinished training", marks=pytest.mark.slow),
        pytest.param(
            ("--encoder", "some/bert"),
            4,
            "neither a folder nor a model in the store",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--precision", "fp16", "--device", "cpu"),
            2,
            "fp16 is for GPUs",
            marks=pytest.mark.slow,
        ),
        (("--width", "100"), 2, "width=100 cannot be meant"),
        pytest.param(("--out", "/"), 2, "is there already", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_done_is_told(daemon, pairs, tmp_path, change, code, message):
    base, *options = change if change[0].startswith("demo/") else ("demo/sd15", *change)
    command = ("adapter", "train", base, "--pairs", pairs, "--name", "refused", *SMALL, *options)
    error = daemon.json(*command, "--work", str(tmp_path / "work"), code=code)["error"]
    assert message in error["message"]


@pytest.mark.slow
def test_an_encoder_that_is_frozen_keeps_its_bytes(daemon, pairs, tmp_path):
    from harness.adapterkit import small_adapter

    encoder = small_adapter(tmp_path / "encoder")
    command = ("adapter", "train", "demo/sd15", "--pairs", pairs, "--name", "frozen", *SMALL)
    more = ("--encoder", str(encoder), "--freeze-encoder", "--steps", "2", "--out")
    daemon.cli(*command, *more, str(tmp_path / "out"))
    kept = "encoder/model.safetensors"
    assert (tmp_path / "out" / kept).read_bytes() == (encoder / kept).read_bytes()
