"""Chinese texts on their way into a translation and back, with a translator seen through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhcache.chinese.detect import has_han
from zhcache.chinese.wording import half_width, in_english, plain, simplified

WORDS = {"一只猫": "a cat", "红灯笼": "a red lantern", "和": "and", "写着": "that says"}


class Translator:
    """Translates word by word, what it does not know letter by letter; remembers what it was asked.

    With ``loses`` it drops Latin words, as translators sometimes do.
    """

    def __init__(self, *, loses: bool = False) -> None:
        self.asked: list[str] = []
        self._loses = loses

    def __call__(self, text: str) -> str:
        self.asked.append(text)
        for chinese, english in WORDS.items():
            text = text.replace(chinese, f" {english} ")
        if self._loses:
            text = text.replace("ZXA", "").replace("myGirl", "my girl")
        return " ".join("?" if has_han(word) else word for word in text.split()) + "."


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("一只猫", "a cat"),
        ("一只貓，紅燈籠。", "a cat , a red lantern."),
        ("一只猫。红灯笼！", "a cat. a red lantern!"),
        ("masterpiece, 一只猫, 8k", "masterpiece, a cat, 8k"),
        ("一只猫写着「福」", 'a cat that says "福"'),
        ("一只猫写着“新年快乐”", 'a cat that says "新年快乐"'),
        ('红灯笼写着"你好"', 'a red lantern that says "你好"'),
        ("myGirl和一只猫", "myGirl and a cat"),
        ("<lora:水墨x:0.8>，一只猫", "<lora:水墨x:0.8>, a cat"),
        ("ＡＢＣ和一只猫", "ABC and a cat"),
        ("一只猫\n红灯笼", "a cat\na red lantern"),
        ("", ""),
        ("only English，here", "only English, here"),
    ],
)
def test_what_is_to_stay_stays(text, english):
    assert in_english(text, Translator()).replace(" ,", ",") == english.replace(" ,", ",")


def test_trigger_words_stay_though_they_are_chinese():
    translator = Translator()
    assert in_english("小红和一只猫", translator, ["小红"]) == "小红 and a cat"
    assert "小红" not in "".join(translator.asked)


def test_longer_trigger_word_goes_before_the_one_within_it():
    translator = Translator()
    assert in_english("小红花和一只猫", translator, ["小红", "小红花"]) == "小红花 and a cat"


def test_trigger_word_is_no_part_of_a_latin_word():
    assert in_english("一只猫和cats", Translator(), ["cat"]) == "a cat and cats"


def test_text_is_translated_by_pieces_where_a_mark_is_lost():
    translator = Translator(loses=True)
    assert in_english("一只猫写着「福」和红灯笼", translator) == (
        'a cat that says "福" and a red lantern'
    )
    assert translator.asked == ['一只猫写着 "ZXA" 和红灯笼', "一只猫写着", "和红灯笼"]
    assert in_english("myGirl和一只猫", Translator(loses=True)) == "myGirl and a cat"


def test_mark_that_the_text_has_itself_is_not_taken():
    assert in_english("一只猫写着「福」和ZXA", Translator()) == 'a cat that says "福" and ZXA'


def test_two_quoted_texts_keep_their_order():
    assert in_english("「早」和「晚」", Translator()) == '"早" and "晚"'


def test_same_word_twice_comes_back_twice():
    assert in_english("小红和小红", Translator(), ["小红"]) == "小红 and 小红"


def test_characters_that_stand_for_others_meanwhile_may_be_in_a_text():
    odd = "\U000f0000\U000f0001"
    assert in_english(f"一只猫和{odd}", Translator()) == f"a cat and {odd}"


def test_punctuation_and_characters_are_those_that_the_corpora_have():
    assert half_width("（１２３）《ＡＢ》　…") == '(123) "AB" ...'
    assert simplified("後面有龍") == "后面有龙"
    assert plain("後面，有龍。") == "后面, 有龙."
    assert simplified("plain") == "plain"


@given(st.text(st.sampled_from('一只猫红灯笼「」“”"<>，。,. ab1\n\U000f0000'), max_size=40))
def test_quoted_texts_come_through_whatever_is_round_them(rest):
    quoted = "「龍福」"
    text = rest.translate(str.maketrans("", "", '「」“”"<>')) + quoted
    assert '"龍福"' in in_english(text, Translator())


@given(st.text(max_size=60))
def test_any_text_is_taken(text):
    in_english(text, Translator(), ["猫", "a"])


def test_long_text_of_signs_takes_no_longer_than_its_length():
    in_english("1" * 20_000 + "猫" + "「" * 20_000 + "<" * 20_000 + '"' * 19_999, Translator())


def test_translator_cannot_bring_in_what_was_kept():
    assert in_english("「福」和一只猫", lambda text: f"{text} \U000f0000\U000f0009") == (
        '"福" 和一只猫'
    )


@pytest.mark.parametrize("marks", ["“”", '"”', "＂”", '“"', "“＂", "””", '""', "＂＂"])
def test_quotation_marks_of_two_kinds_quote(marks):
    opens, closes = marks
    assert '"龍福"' in in_english(f"一只猫写着{opens}龍福{closes}的灯笼", Translator())


@pytest.mark.parametrize("before", ["一只猫”和", '一只5"的猫写着', "一只猫“"])
def test_quotation_mark_too_many_hides_no_quoted_text(before):
    assert '"龍福"' in in_english(f"{before}“龍福”", Translator())


def test_word_that_is_kept_is_no_part_of_a_trigger_word():
    assert "sks_dog" in in_english("一只sks_dog风格的猫", Translator(), ["dog"])
