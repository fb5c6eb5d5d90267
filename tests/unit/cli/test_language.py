"""Texts in the reader's language, JSON never."""

from pathlib import Path

import pytest

from simulators.daemon import DaemonSimulator
from zhcache import i18n
from zhcache.errors import NotFound
from zhcache.i18n import catalogue


@pytest.mark.parametrize(
    ("environ", "language"),
    [
        ({}, "en"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en"}, "en"),
        ({"LC_ALL": "C", "LANGUAGE": "zh_CN"}, "en"),
        ({"LC_ALL": "", "LANG": "zh_CN.UTF-8"}, "zh"),
    ],
)
def test_language_follows_the_locale(environ: dict[str, str], language: str) -> None:
    assert i18n.language_of(environ) == language


def test_errors_are_told_in_chinese_with_their_values(daemon: DaemonSimulator, zhcache):
    daemon.error = NotFound("{repo} is not in the store", hint="run `zhcache repair`", repo="a/b")
    ran = zhcache("--lang", "zh", "ls")
    assert "存储中没有 a/b" in ran.err
    assert "请运行 `zhcache repair`" in ran.err


def test_what_the_daemon_found_is_told_in_chinese(daemon: DaemonSimulator, zhcache):
    collected = zhcache("--lang", "zh", "gc", "--dry-run").out
    assert "3 个 blob" in collected
    assert "a/b 在使用" in collected
    examined = zhcache("--lang", "zh", "doctor").out
    assert "http://hub：速度慢" in examined
    assert "请检查网络和域名服务器" in examined
    assert "the store is on ext4" in examined


def test_json_stays_english(daemon: DaemonSimulator, zhcache):
    daemon.error = NotFound("{repo} is not in the store", repo="a/b")
    ran = zhcache("--lang", "zh", "ls", "--json")
    assert ran.json["error"]["message"] == "a/b is not in the store"


def test_locale_chooses_chinese_without_an_option(zhcache, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert "列出已有的快照" in zhcache("--help").out
    assert "List the snapshots" in zhcache("--lang", "en", "--help").out


def test_clicks_own_words_are_chinese_too(started):
    _, err = started("--lang=zh", "rm").communicate(timeout=20)
    assert "用法" in err
    assert "缺少参数" in err
    out, _ = started("--lang", "zh", "ls", "--help").communicate(timeout=20)
    assert "显示此帮助并退出" in out


def test_unknown_language_is_a_usage_error(zhcache):
    assert zhcache("--lang", "tlh", "ls").code == 2


def test_catalogue_translates_every_text() -> None:
    assert not catalogue.missing(), (
        "run `python -m zhcache.i18n.catalogue --update`, translate, --compile"
    )


def test_catalogue_holds_nothing_that_is_not_used() -> None:
    assert catalogue.obsolete() == set()


def test_compiled_catalogue_is_that_of_the_source() -> None:
    assert catalogue.MO.read_bytes() == catalogue.compiled()


def test_translations_have_the_fields_of_their_source() -> None:
    import string

    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for message in catalogue.read():
        if message.id and isinstance(message.id, str):
            assert fields(message.string) == fields(message.id), message.id


def test_extraction_finds_every_form(tmp_path: Path) -> None:
    source = """
HINT = "from a constant"
def f(x):
    mark("marked"); translate("shown", x=1); i18n.translate("by attribute")
    raise NotFound("template {x}", hint=HINT if x else "other side", x=x)
    Check(name="n", status="ok", detail="a detail", fix="a fix")
    print("not a text")
"""
    assert set(catalogue.texts(source)) == {
        "marked", "shown", "by attribute", "template {x}", "from a constant", "other side",
        "a detail", "a fix",
    }  # fmt: skip
