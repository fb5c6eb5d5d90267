"""Calls that need nobody: no daemon runs here, and whoever asked one would fail."""

import os
import threading

import pytest

from zhcache.chinese import ask
from zhcache.chinese.ask import Answer
from zhcache.chinese.choose import Route
from zhcache.chinese.reader import Reader
from zhcache.chinese.report import ChineseWarning
from zhcache.errors import DaemonUnreachable, UsageError
from zhcache.protocol.prompts import OwnRead, PromptModel

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


class Spoken:
    """A translator's worker that says what it was told to."""

    def __init__(self, english):
        self.english = english

    def ask(self, texts, **_):
        return Answer([self.english] * len(texts), {}, [""] * len(texts))


def translating(english):
    one = reader("translate")
    route = Route(
        "translate", PromptModel(route="translate", repo="org/opus", commit="d" * 40, name="opus")
    )
    one._known["StableDiffusionPipeline"] = route, Spoken(english)
    return one


@pytest.mark.parametrize(
    ("english", "is_told"),
    [("green hills", False), ("green hills " * 3, True), ("\U0001f3d4" * 20, True)],
)
def test_translation_that_an_encoder_may_cut_is_left_to_its_tokenizer(english, is_told):
    made = prepared(translating(english), {"prompt": HILLS})
    assert (made.conditions is not None) is is_told


def test_translation_leaves_embeddings_that_were_given():
    given = {"prompt": HILLS, "negative_prompt_embeds": object()}
    made = prepared(translating("green hills " * 20), given)
    assert made.conditions is None
    assert made.arguments["negative_prompt_embeds"] is given["negative_prompt_embeds"]


def test_route_is_known_though_another_thread_looks_again_meanwhile():
    class Emptied(dict):
        def __setitem__(self, name, value):
            """As if another thread's call had failed now."""

    one = reader()
    one._known = Emptied()
    assert prepared(one, {"prompt": HILLS}, "ZImagePipeline") is None
    assert one.report.texts[0].route == "native"


def test_prompt_that_is_no_text_is_named_for_what_it_is():
    with pytest.raises(UsageError, match="not text in UTF-8"):
        prepared(reader("translate"), {"prompt": f"\ud800{HILLS}"})


JAPANESE, KOREAN = "猫の絵、水彩", "한국의 가을"


@pytest.mark.parametrize("text", [JAPANESE, KOREAN])
def test_japanese_and_korean_go_as_they_are_and_are_told_as_unread(text):
    one = reader("translate")
    with pytest.warns(ChineseWarning, match="kana or hangul"):
        assert prepared(one, {"prompt": ["a cat", text]}) is None
    assert [(line.route, line.text) for line in one.report.texts] == [
        ("plain", "a cat"), ("unread", text),
    ]  # fmt: skip


def test_japanese_beside_chinese_is_not_translated():
    one = translating("green hills")
    with pytest.warns(ChineseWarning, match="kana or hangul"):
        made = prepared(one, {"prompt": [HILLS, JAPANESE]})
    assert made.arguments["prompt"] == ["green hills", JAPANESE]
    assert [line.route for line in one.report.texts] == ["translate", "unread"]


def test_japanese_for_an_encoder_that_reads_chinese_is_no_matter_of_ours():
    one = reader()
    assert prepared(one, {"prompt": JAPANESE}, "QwenImagePipeline") is None
    assert one.report.texts == ()
    assert prepared(one, {"prompt": [HILLS, JAPANESE]}, "QwenImagePipeline") is None
    assert [line.route for line in one.report.texts] == ["native", "plain"]


def test_each_thread_finds_the_report_of_its_own_call():
    one, said, read = reader(), threading.Event(), threading.Event()
    found = []

    def call():
        prepared(one, {"prompt": HILLS}, "ZImagePipeline")
        said.set()
        assert read.wait(30)
        found.append(one.report.texts[0].text)

    other = threading.Thread(target=call)
    other.start()
    assert said.wait(30)
    # Who has called nothing yet sees the last of all.
    assert one.report.texts[0].text == HILLS
    prepared(one, {"prompt": "hills"}, "ZImagePipeline")
    assert one.report.texts == ()
    read.set()
    other.join(30)
    assert found == [HILLS]


def test_call_that_failed_leaves_no_report_of_the_one_before():
    one = reader()
    prepared(one, {"prompt": HILLS}, "ZImagePipeline")
    with pytest.raises(DaemonUnreachable):
        prepared(one, {"prompt": HILLS}, "StableDiffusionPipeline")
    assert one.report.texts == ()


def test_what_the_pipelines_own_encoder_cuts_is_warned_of_where_the_user_called():
    one = reader(None)
    given = {"prompt": "a cat " * 200}
    assert prepared(one, given) is None
    with pytest.warns(ChineseWarning, match="not read: a cat") as caught:
        one.add_own(given, [OwnRead(argument="prompt", kept=300)])
    assert caught[0].filename == __file__
    assert len(str(caught[0].message)) < 300
    (line,) = one.report.texts
    assert (line.route, line.cut) == ("plain", given["prompt"][300:].strip())


def test_forked_child_does_not_wait_for_a_thread_that_it_has_not():
    with ask._lock:
        child = os.fork()
        if not child:
            os._exit(0 if ask._lock.acquire(blocking=False) else 1)
        assert os.waitpid(child, 0)[1] == 0
