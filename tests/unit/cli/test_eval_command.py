"""``zhcache eval``: options in, numbers out."""

import json
import os

import pytest

from harness import visionkit

PROMPTS = ["一只小猫", "a red chair"]


@pytest.fixture
def sets(tmp_path):
    a = visionkit.drawn(tmp_path / "a", PROMPTS)
    return a, visionkit.drawn(tmp_path / "b", PROMPTS, off=0.3)


def test_eval_prints_a_table_and_what_to_beware_of(zhcache, sets):
    ran = zhcache("eval", *sets)
    assert ran.code == 0
    head, psnr, ssim = ran.out.splitlines()
    assert head.split()[:2] == ["MEASURE", "A"]
    assert psnr.startswith("PSNR, dB")
    assert ssim.startswith("SSIM")
    assert "(95%)" in ssim
    assert "2 prompts are little evidence" in ran.err
    assert "两" not in ran.err
    assert "证据" in zhcache("--lang", "zh", "eval", *sets).err


def test_eval_in_json_and_quietly(zhcache, sets, tmp_path):
    shown = zhcache("eval", *sets, "--json", "--html", tmp_path / "r.html").json
    assert (shown["schema"], shown["paired_by"], len(shown["pairs"])) == (1, "prompt", 4)
    assert [row["metric"] for row in shown["metrics"]] == ["psnr", "ssim"]
    assert "<html" in (tmp_path / "r.html").read_text()
    quiet = zhcache("eval", *sets, "-q")
    assert quiet.err == ""
    assert [line.split()[0] for line in quiet.out.splitlines()] == ["psnr", "ssim"]


def test_extractors_of_ones_own_need_no_daemon(zhcache, sets, tmp_path, monkeypatch):
    monkeypatch.setenv("ZHCACHE_SOCKET", str(tmp_path / "nobody.sock"))
    (tmp_path / "mine.py").write_text("def looks(batch):\n    return batch.float().mean((2, 3))\n")
    options = ("--metric", "fid", "--metric", "kid", "--extractor", f"{tmp_path}/mine.py:looks")
    ran = zhcache("eval", *sets, *options, "--json")
    assert [row["metric"] for row in ran.json["metrics"]] == ["kid", "fid"]
    assert any("far too high" in text for text in ran.json["warnings"])
    assert "far too high" in ran.err


def test_models_of_the_store_need_a_daemon(zhcache, sets, tmp_path, monkeypatch):
    monkeypatch.setenv("ZHCACHE_SOCKET", str(tmp_path / "nobody.sock"))
    assert zhcache("eval", *sets, "--extractor", "lab/clip").code == 5
    assert zhcache("eval", *sets, "--judge", "lab/clip").code == 5


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--metric", "fid"), 2),
        (("--metric", "score"), 2),
        (("--metric", "lpips"), 2),
        (("--prompts", "/nowhere.json"), 4),
        (("--pair-by", "size"), 2),
    ],
)
def test_what_cannot_be_meant_has_its_exit_code(zhcache, sets, options, code):
    assert zhcache("eval", *sets, *options).code == code


def test_folders_that_are_not_there_are_not_found(zhcache, sets, tmp_path):
    ran = zhcache("eval", sets[0], tmp_path / "none", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (4, "not_found")


def test_pictures_without_counterparts_are_named(zhcache, sets):
    next(iter(sorted(sets[1].iterdir()))).unlink()
    ran = zhcache("eval", *sets, "--json")
    assert ran.code == 2
    assert "pic-0.png" in ran.json["error"]["message"]
    assert json.dumps(str(sets[1])) in json.dumps(ran.json["error"]["message"]) or (
        str(sets[1]) in ran.json["error"]["message"]
    )


def test_names_that_are_no_text_are_measured_and_told(zhcache, tmp_path):
    name = os.fsdecode(b"\xff.png")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        visionkit.noise(1).save(tmp_path / folder / name)
    ran = zhcache("eval", tmp_path / "a", tmp_path / "b", "--json", "--html", tmp_path / "r.html")
    assert (ran.code, ran.json["pairs"][0]["name"]) == (0, "\ufffd")
    assert ran.json["metrics"][0]["value"] is None
    assert "<h3>?</h3>" in (tmp_path / "r.html").read_text("utf-8")
    lost = zhcache("eval", tmp_path / name, tmp_path / "b", "--json")
    assert (lost.code, lost.json["error"]["code"]) == (4, "not_found")


def test_report_has_its_place_before_anything_is_measured(zhcache, sets, tmp_path):
    (tmp_path / "mine.py").write_text("raise AssertionError('it was run')\n")
    own = ("--metric", "kid", "--extractor", f"{tmp_path}/mine.py:looks", "--json")
    for place in (tmp_path, tmp_path / "mine.py" / "r.html", "/dev/null"):
        ran = zhcache("eval", *sets, *own, "--html", place)
        assert ran.code == 2
        assert str(place) in ran.json["error"]["message"]
    assert not os.path.isfile("/dev/null")


def test_report_goes_where_a_link_leads(zhcache, sets, tmp_path):
    (tmp_path / "r.html").symlink_to(tmp_path / "real.html")
    assert zhcache("eval", *sets, "--html", tmp_path / "r.html").code == 0
    assert (tmp_path / "r.html").is_symlink()
    assert "<html" in (tmp_path / "real.html").read_text("utf-8")


def test_what_an_extractor_prints_is_no_part_of_the_result(zhcache, sets, tmp_path):
    (tmp_path / "mine.py").write_text(
        "print('loading')\ndef looks(batch):\n    print('looking')\n"
        "    return batch.float().mean((2, 3))\n"
    )
    ran = zhcache("eval", *sets, "--extractor", f"{tmp_path}/mine.py:looks", "--json")
    assert [row["metric"] for row in ran.json["metrics"]] == ["psnr", "ssim", "cmmd", "kid"]
    assert "looking" in ran.err


def test_interrupted_it_leaves_the_report_as_it_was(zhcache, sets, tmp_path):
    (tmp_path / "r.html").write_text("before")
    (tmp_path / "mine.py").write_text("def looks(batch):\n    raise KeyboardInterrupt\n")
    own = ("--metric", "kid", "--extractor", f"{tmp_path}/mine.py:looks", "--json")
    ran = zhcache("eval", *sets, *own, "--html", tmp_path / "r.html")
    assert (ran.code, ran.json["error"]["code"]) == (130, "cancelled")
    assert (tmp_path / "r.html").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "mine.py", "r.html"}
