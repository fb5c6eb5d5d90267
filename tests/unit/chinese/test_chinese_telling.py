"""What a report says once the place of the pipeline has told what its own encoder did. Pure."""

from zhcache.chinese.report import ChineseReport, TextReport
from zhcache.chinese.telling import with_own
from zhcache.protocol.prompts import OwnRead

HILLS = "山水画"
LONG = "green hills, blue water"


def told(lines, sent, *own):
    return with_own(ChineseReport(tuple(lines)), sent, own).texts


def test_translation_is_told_with_the_pieces_that_it_was_read_in():
    line = TextReport("prompt", HILLS, "translate", LONG)
    (one,) = told([line], {"prompt": LONG}, OwnRead(argument="prompt", chunks=3))
    assert (one.text, one.used, one.chunks, one.cut) == (HILLS, LONG, 3, "")


def test_translation_that_is_cut_says_both_what_was_lost_before_and_now():
    line = TextReport("prompt", HILLS, "translate", LONG, cut="画")
    (one,) = told([line], {"prompt": LONG}, OwnRead(argument="prompt", kept=11))
    assert one.cut == "画 … , blue water"


def test_native_text_and_the_same_text_elsewhere_are_told_apart():
    lines = [TextReport("prompt", HILLS, "native", HILLS),
             TextReport("negative_prompt", HILLS, "native", HILLS)]  # fmt: skip
    sent = {"prompt": [HILLS], "negative_prompt": [HILLS]}
    found = told(lines, sent, OwnRead(argument="negative_prompt", kept=2))
    assert [one.cut for one in found] == ["", "画"]


def test_call_that_nobody_was_asked_about_is_told_only_where_something_is_cut():
    sent = {"prompt": ["a cat", LONG]}
    assert told([], sent) == ()
    found = told([], sent, OwnRead(argument="prompt", place=1, kept=5))
    assert [(one.route, one.text, one.cut) for one in found] == [
        ("plain", "a cat", ""), ("plain", LONG, LONG[5:].strip()),
    ]  # fmt: skip
    # Of a worker that speaks of a text that is not there nothing is made.
    assert told([], sent, OwnRead(argument="prompt", place=7, kept=5)) == ()


def test_second_encoders_own_text_has_a_line_once_it_is_cut():
    line = TextReport("prompt", HILLS, "adapter", "adapters/small@1")
    sent = {"prompt": [HILLS, "a cat"], "prompt_2": [HILLS, LONG]}
    found = told([line], sent, OwnRead(argument="prompt_2", place=1, kept=5))
    assert [(one.argument, one.route, one.cut) for one in found] == [
        ("prompt", "adapter", ""), ("prompt_2", "plain", LONG[5:].strip()),
    ]  # fmt: skip


def test_missing_negative_is_told_for_what_the_model_has_in_its_place():
    lines = [TextReport("prompt", HILLS, "adapter", "adapters/small@1"),
             TextReport("negative_prompt", "", "adapter", "adapters/small@1")]  # fmt: skip
    _, zeros = told(lines, {"prompt": HILLS}, OwnRead(argument="negative_prompt", missing="zeros"))
    assert (zeros.route, zeros.used) == ("zeros", "")
    own = OwnRead(argument="negative_prompt", missing="nothing")
    assert told(lines, {"prompt": HILLS}, own) == (lines[0],)
