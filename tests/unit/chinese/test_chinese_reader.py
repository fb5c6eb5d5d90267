"""Calls that need nobody: no daemon runs here, and whoever asked one would fail."""

import pytest

from zhcache.chinese.reader import Reader
from zhcache.errors import DaemonUnreachable, UsageError

HILLS = "山水画"


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("ZHCACHE_SOCKET", str(tmp_path / "none.sock"))


def reader(asked="auto"):
    return Reader(asked, "org/pipe", "c" * 40)


def prepared(one, arguments, kind="StableDiffusionPipeline"):
    return one.prepare(kind, arguments, raw=True)


def test_english_is_untouched_and_asks_nobody():
    one = reader("translate")
    assert prepared(one, {"prompt": "a cat，a dog", "negative_prompt": None}) is None
    assert str(one.report) == "no Chinese text in the last call"


def test_none_leaves_chinese_as_it_is():
    assert prepared(reader(None), {"prompt": HILLS}) is None


def test_native_family_gets_its_text_and_says_so():
    one = reader()
    said = {"prompt": [HILLS, "a cat"], "negative_prompt": HILLS}
    assert prepared(one, said, "ZImagePipeline") is None
    assert [(line.argument, line.route) for line in one.report.texts] == [
        ("prompt", "native"), ("prompt", "plain"), ("negative_prompt", "native"),
    ]  # fmt: skip


def test_family_that_nobody_measured_is_told_as_such():
    one = reader()
    assert prepared(one, {"prompt": HILLS}, "Lumina2Pipeline") is None
    assert one.report.texts[0].route == "unmeasured"


def test_chinese_for_another_family_asks_what_is_held():
    with pytest.raises(DaemonUnreachable):
        prepared(reader(), {"prompt": HILLS})


def test_native_where_the_encoder_reads_no_chinese_is_refused():
    with pytest.raises(UsageError, match="native"):
        prepared(reader("native"), {"prompt": HILLS})


def test_report_is_of_the_last_call():
    one = reader()
    prepared(one, {"prompt": HILLS}, "ZImagePipeline")
    prepared(one, {"prompt": "hills"}, "ZImagePipeline")
    assert one.report.texts == ()
