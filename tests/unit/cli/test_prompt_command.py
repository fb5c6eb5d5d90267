"""``zhcache prompt``: prompts in and out by arguments, files and pipes; no daemon is asked."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from zhcache.cli.lines import Lines


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch, tmp_path):
    # A daemon that would be started fails the test: --no-spawn is not given, and there is no home.
    monkeypatch.setenv("ZHCACHE_SOCKET", str(tmp_path / "none.sock"))
    monkeypatch.setenv("ZHCACHE_HOME", "/proc/none")


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def piped(text, *args):
    return subprocess.run(
        [sys.executable, "-m", "zhcache", *args],
        input=text,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_prompts_are_on_stdout_and_what_was_added_on_stderr(zhcache):
    ran = zhcache("prompt", "optimize", "一幅油画", "a cat")
    first, second = ran.out.splitlines()
    assert first.startswith("一幅油画，厚涂笔触")
    assert second == "a cat"
    assert "added for 油画: 厚涂笔触、" in ran.err
    assert "nothing was added" in ran.err
    assert zhcache("prompt", "optimize", "一幅油画", "-q").err == ""


def test_json_is_an_object_for_each_prompt(zhcache):
    ran = zhcache("prompt", "optimize", "一幅油画", "可爱的小猫", "--json")
    first, second = records(ran.out)
    assert (first["schema"], first["style"], first["original"]) == (1, "oil", "一幅油画")
    assert first["added"][0] == {"word": "厚涂笔触", "aspect": "technique"}
    assert first["prompt"] == "，".join(["一幅油画", *(one["word"] for one in first["added"])])
    assert (second["style"], second["budget"]) == ("general", 77)
    assert ran.err == ""


def test_budget_encoder_and_style_are_passed_on(zhcache):
    args = ("--budget", "40", "--encoder", "clip", "--style", "水彩画", "--json")
    (told,) = records(zhcache("prompt", "optimize", "可爱的小猫", *args).out)
    assert (told["style"], told["budget"]) == ("watercolour", 40)
    assert told["tokens"] <= 40
    long = zhcache("prompt", "optimize", "山" * 80)
    assert "82 tokens already, of 77" in long.err


def test_files_keep_their_lines(zhcache, tmp_path):
    source, target = tmp_path / "提示词.txt", tmp_path / "out.txt"
    source.write_text("一幅油画\n\n可爱的小猫\r\na cat", "utf-8-sig")
    ran = zhcache("prompt", "optimize", "--input", source, "--output", target)
    lines = target.read_text("utf-8").split("\n")
    assert [line[:2] for line in lines] == ["一幅", "", "可爱", "a ", ""]
    assert ran.out == f"4 prompts to {target}\n"
    told = zhcache("prompt", "optimize", "--input", source, "--output", target, "--json")
    assert told.json == {"path": str(target), "prompts": 4, "schema": 1}
    assert [record["original"] for record in records(target.read_text("utf-8"))] == [
        "一幅油画", "", "可爱的小猫", "a cat",
    ]  # fmt: skip
    assert os.listdir(tmp_path) == ["提示词.txt", "out.txt"] or len(os.listdir(tmp_path)) == 2


def test_stdin_is_utf8_whatever_the_locale():
    ran = piped("一幅油画\n".encode(), "prompt", "optimize", "-", "--json")
    assert json.loads(ran.stdout)["style"] == "oil"
    ran = piped("一幅油画".encode("gb18030"), "prompt", "optimize", "-")
    assert ran.returncode == 2
    assert b"not text in UTF-8" in ran.stderr


def test_file_stays_as_it_was_when_something_fails(zhcache, tmp_path):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes("一幅油画\n".encode() * 3000 + b"\xff\n")
    target.write_text("before")
    ran = zhcache("prompt", "optimize", "--input", source, "--output", target)
    assert ran.code == 2
    assert target.read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["in.txt", "out.txt"]


def test_output_follows_links_and_keeps_the_mode(zhcache, tmp_path):
    target, link = tmp_path / "out.txt", tmp_path / "link"
    target.write_text("before")
    target.chmod(0o600)
    link.symlink_to(target)
    assert zhcache("prompt", "generate", 2, "--seed", 1, "--output", link).code == 0
    assert link.is_symlink()
    assert len(target.read_text("utf-8").splitlines()) == 2
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("optimize",), 2, "there is no prompt"),
        (("optimize", "--input", "/none.txt"), 4, "no file /none.txt"),
        (("optimize", "--input", "/proc"), 2, "/proc cannot be read"),
        (("optimize", "猫", "--output", "/proc/none/x"), 2, "cannot be written"),
        (("optimize", "猫", "--output", "/tmp"), 2, "cannot be written"),
        (("optimize", "猫", "--style", "nobody's"), 2, "there is no style"),
        (("optimize", "猫", "--encoder", "nonsense"), 2, "neither a folder nor an encoder"),
        (("optimize", "猫", "--budget", "0"), 2, "0"),
        (("optimize", "\udcff"), 2, "not text in UTF-8"),
        (("generate", "0"), 2, "0"),
        (("generate", str(10**30)), 2, str(10**30)),
        (("generate", "1", "--elements", "7"), 2, "7"),
        (("generate", "1", "--vocabulary", "/none.json"), 4, "no file /none.json"),
    ],
)
def test_errors_have_their_codes(zhcache, args, code, told):
    ran = zhcache("prompt", *args)
    assert ran.code == code
    assert told in ran.err


def test_output_is_readable_to_nobody_else_meanwhile(tmp_path):
    target = tmp_path / "out.txt"
    target.touch(0o600)
    before = os.umask(0)
    try:
        with Lines(str(target)) as lines:
            lines.write("x")
            modes = {one.stat().st_mode & 0o777 for one in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {0o600}
    assert target.read_text() == "x\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lay another user's link")
@pytest.mark.parametrize("name", ["planted", "mine"])
def test_links_that_another_user_laid_where_everybody_may_are_not_followed(zhcache, tmp_path, name):
    private, shared = tmp_path / "private", tmp_path / "shared"
    private.write_text("before")
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "planted").symlink_to(private)
    os.chown(shared / "planted", 12345, 12345, follow_symlinks=False)
    (shared / "mine").symlink_to("planted")
    ran = zhcache("prompt", "generate", 1, "--output", shared / name)
    assert ran.code == 8
    assert "planted is a link that another user laid" in ran.err
    assert private.read_text() == "before"


def test_stdout_and_stdin_that_fail_are_told(tmp_path):
    command = f"{shlex.quote(sys.executable)} -m zhcache prompt"
    for line, code, told in (
        (f"{command} generate 3 >/dev/full", 6, "stdout cannot be written: No space left"),
        (f"{command} generate 3 --json >/dev/full", 6, "stdout cannot be written: No space left"),
        (f"{command} --help >/dev/full", 6, "no room for what is to be written: No space left"),
        (f"{command} optimize - <&-", 2, "stdin is closed"),
    ):
        ran = subprocess.run(
            ["sh", "-c", line],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        assert ran.returncode == code
        assert told in ran.stderr
        assert "Traceback" not in ran.stderr


def test_full_disk_is_told_as_such(zhcache):
    ran = zhcache("prompt", "generate", 100_000, "--elements", 6, "--output", "/dev/full")
    assert ran.code == 6
    assert "cannot be written" in ran.err


def test_generated_prompts_are_the_seeds(zhcache):
    ran = zhcache("prompt", "generate", 3, "--elements", 6, "--seed", 1)
    assert ran.out.splitlines()[0] == "复古的猫在森林里，夜景中，油画风格，对称构图"
    assert ran.err == ""
    told = records(zhcache("prompt", "generate", 3, "--elements", 6, "--seed", 1, "--json").out)
    assert [one["prompt"] for one in told] == ran.out.splitlines()
    assert (told[0]["seed"], told[0]["words"]["subjects"]) == (1, "猫")


def test_random_seed_is_told_so_that_it_can_be_had_again(zhcache):
    ran = zhcache("prompt", "generate", 9, "--elements", 1)
    assert "there are 8 combinations" in ran.err
    seed = ran.err.partition("--seed ")[2].split()[0]
    assert zhcache("prompt", "generate", 9, "--elements", 1, "--seed", seed).out == ran.out


def test_own_vocabulary_from_a_file(zhcache, tmp_path):
    file = tmp_path / "words.toml"
    file.write_text('subjects = ["龙"]\n', "utf-8")
    assert zhcache("prompt", "generate", 1, "--elements", 1, "--vocabulary", file).out == "龙\n"


@pytest.mark.parametrize(("language", "told"), [("en", "The most tokens"), ("zh", "最多")])
def test_help_is_in_both_languages(zhcache, language, told):
    assert told in zhcache("--lang", language, "prompt", "optimize", "--help").out
    assert "COUNT" in zhcache("--lang", language, "prompt", "generate", "--help").out
