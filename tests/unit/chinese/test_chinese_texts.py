"""A call's texts: found, listed, replaced, and told apart by who encodes them."""

import pytest

from zhcache.chinese.conditions import Foreign, chunks, conditions, foreign, wanted
from zhcache.chinese.texts import is_chinese, items, replaced
from zhcache.errors import UsageError

HOUSE, BLURRY = "一座红房子", "模糊"


class Shape:
    """Stands for a tensor, of which only the shape is looked at."""

    def __init__(self, *shape):
        self.shape = shape

    def reshape(self, *shape):
        return Shape(*shape)


def who(arguments, kind="adapter", missing="empty"):
    return [(one.prompt, one.negative) for one in foreign(items(arguments), kind, missing)]


@pytest.mark.parametrize(
    "arguments",
    [{"prompt": HOUSE}, {"prompt": ["a", HOUSE]}, {"prompt": "a", "negative_prompt_2": BLURRY}],
)
def test_chinese_is_found_in_any_text(arguments):
    assert is_chinese(arguments)


@pytest.mark.parametrize(
    "arguments", [{}, {"prompt": None}, {"prompt": ["a", "b"]}, {"prompt_embeds": HOUSE},
                  {"prompt": "a", "system_prompt": HOUSE}, {"prompt": 3}],
)  # fmt: skip
def test_nothing_else_is_chinese(arguments):
    assert not is_chinese(arguments)


def test_replaced_texts_keep_their_places_and_everything_else():
    given = {"prompt": [HOUSE, "a"], "negative_prompt": BLURRY, "image": HOUSE, "prompt_2": None}
    known = {HOUSE: "house", BLURRY: "blurry"}
    assert replaced(given, known) == {
        "prompt": ["house", "a"], "negative_prompt": "blurry", "image": HOUSE, "prompt_2": None,
    }  # fmt: skip


def test_one_negative_is_for_all_prompts():
    first, second = items({"prompt": [HOUSE, "a"], "prompt_2": "b", "negative_prompt": BLURRY})
    assert first.texts == {"prompt": HOUSE, "prompt_2": "b"}
    assert first.negatives == second.negatives == {"prompt": BLURRY}


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": None, "negative_prompt": HOUSE},
        {"prompt": [HOUSE], "negative_prompt": ["a", "b"]},
        {"prompt": [HOUSE, 3]},
    ],
)
def test_texts_that_do_not_go_together_are_refused(arguments):
    with pytest.raises(UsageError):
        items(arguments)


def test_what_is_no_text_in_a_list_is_named_for_what_it_is():
    with pytest.raises(UsageError, match="prompt has a bytes"):
        items({"prompt": [HOUSE, b"x"]})
    assert len(items({"prompt": (HOUSE, "a")})) == 2
    assert items({"prompt": []}) == []


def test_adapter_reads_chinese_texts_and_the_empty_negative_of_a_chinese_prompt():
    assert who({"prompt": [HOUSE, "a"]}) == [(HOUSE, ""), (None, None)]
    assert who({"prompt": HOUSE, "negative_prompt": ""}) == [(HOUSE, "")]
    assert who({"prompt": HOUSE, "negative_prompt": "blurry"}) == [(HOUSE, None)]
    assert who({"prompt": "a", "negative_prompt": BLURRY}) == [(None, BLURRY)]


def test_encoder_reads_both_of_a_pair_or_none():
    said = {"prompt": [HOUSE, "a", "b"], "negative_prompt": ["x", BLURRY, "y"]}
    assert who(said, "encoder") == [(HOUSE, "x"), ("a", BLURRY), (None, None)]
    assert who({"prompt": HOUSE}, "encoder") == [(HOUSE, "")]


def test_missing_negative_stays_missing_where_it_would_switch_guidance_on():
    assert who({"prompt": HOUSE}, missing="none") == [(HOUSE, None)]
    assert who({"prompt": HOUSE, "negative_prompt": ""}, missing="none") == [(HOUSE, "")]


def test_texts_that_differ_between_arguments_are_not_for_one_encoder():
    assert who({"prompt": HOUSE, "prompt_2": HOUSE}) == [(HOUSE, "")]
    with pytest.raises(UsageError, match="prompt_2"):
        who({"prompt": HOUSE, "prompt_2": "a"})


def test_each_text_is_asked_about_once_and_the_empty_one_always():
    assert wanted([Foreign(HOUSE, BLURRY), Foreign(HOUSE, None)]) == [HOUSE, BLURRY, ""]
    assert wanted([Foreign(HOUSE, "")]) == [HOUSE, ""]


def test_answer_becomes_conditions_with_chunks_one_after_the_other():
    embeds = {
        "prompt_embeds": [Shape(3, 77, 8), Shape(1, 77, 8)],
        "pooled_prompt_embeds": [Shape(8), Shape(8)],
        "prompt_attention_mask": [Shape(3, 77), Shape(1, 77)],
    }
    assert (chunks(embeds, 0), chunks(embeds, 1)) == (3, 1)
    made = conditions([Foreign(HOUSE, ""), Foreign(None, None)], [HOUSE, ""], embeds)
    assert made["prompt"][1] is made["negative_prompt"][1] is None
    shapes = {name: one.shape for name, one in made["prompt"][0].items()}
    assert shapes == {
        "prompt_embeds": (231, 8), "pooled_prompt_embeds": (8,), "prompt_attention_mask": (231,),
    }  # fmt: skip
    assert made["negative_prompt"][0]["prompt_embeds"].shape == (77, 8)
    assert made["empty"]["prompt_embeds"].shape == (77, 8)
