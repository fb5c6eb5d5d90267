"""How a prompt is cut, and that cutting it leaves no traces on the machine."""

import json
import os
import subprocess
import sys

import pytest

from zhcache.prompts.words import Words

CUT = """
import json, sys, tempfile
from pathlib import Path
import zhcache
result = zhcache.prompts.optimize("一幅水墨山水画")
left = sorted(str(path) for path in Path(tempfile.gettempdir()).iterdir())
print(json.dumps({"style": result.style, "left": left, "torch": "torch" in sys.modules}))
"""


def run(code, **environ):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_no_cache_of_jieba_is_written_and_nothing_logged(tmp_path):
    ran = run(CUT, TMPDIR=str(tmp_path))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout) == {"style": "ink", "left": [], "torch": False}


def test_cache_that_another_user_planted_is_not_read(tmp_path):
    import marshal

    planted = tmp_path / "jieba.cache"
    planted.write_bytes(marshal.dumps(({"一幅水墨山水画": 10**9}, 10**9)))
    ran = run(CUT, TMPDIR=str(tmp_path))
    assert json.loads(ran.stdout)["style"] == "ink"
    assert json.loads(ran.stdout)["left"] == [str(planted)]


@pytest.mark.parametrize("package", ["jieba", "opencc"])
def test_missing_package_is_an_error_that_names_the_extra(package):
    ran = run(
        f"import sys; sys.modules[{package!r}] = None\n"
        "import zhcache\n"
        "print(next(zhcache.prompts.generate(1, seed=1)))\n"
        "try: zhcache.prompts.optimize('猫')\n"
        "except zhcache.UsageError as error: print(error.message, '|', error.hint)"
    )
    made, told = ran.stdout.splitlines()
    assert made
    assert package in told
    assert "pip install 'zhcache[chinese]'" in told


def test_terms_are_found_as_whole_words_only():
    assert Words("一位油画家").wants("油画") is None
    assert Words("一位油画家，一幅油画").wants("油画") == 8
    assert Words("一幅ＯＩＬ Painting").wants("oil painting") == 2


@pytest.mark.parametrize(
    ("prompt", "refused", "wanted"),
    [
        ("不要卡通，要水彩", "卡通", "水彩"),
        ("不是油画而是水彩", "油画", "水彩"),
        ("没有云的水彩", "云", "水彩"),
        ("水彩，避免阴影、文字", "文字", "水彩"),
        ("水彩 without 文字", "文字", "水彩"),
    ],
)
def test_refusals_end_where_they_end(prompt, refused, wanted):
    words = Words(prompt)
    assert words.wants(refused) is None
    assert words.refuses(f"大{refused}")
    assert words.wants(wanted) is not None
    assert not words.refuses(wanted)


def test_quoted_words_are_not_the_prompts():
    for prompt in ("写着“油画”", "寫著「油畫」", '写着"油画"', "《油画》"):
        assert Words(prompt).wants("油画") is None
    assert Words("只有一半的“引号，油画").wants("油画") is not None
