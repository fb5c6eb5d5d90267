"""What a pipeline's own encoder reads of a text: the table against what it makes of the text."""

import functools
import inspect

import pytest
import torch

from harness import chinesekit, promptkit
from harness.chinesekit import told
from zhcache.chinese.conditions import in_pieces
from zhcache.chinese.own import readings
from zhcache.chinese.texts import is_text, items

LONG = "a red house by the river and a cat in the snow, " * 12
FAMILIES = {
    "sd15": {}, "sdxl": {}, "pixart": {"max_sequence_length": 40},
    "sd3": {"max_sequence_length": 90}, "flux": {"max_sequence_length": 90},
    # Its tiny tokenizer makes 150 tokens more of the template than the real one.
    "qwen-image": {"max_sequence_length": 250}, "z-image": {"max_sequence_length": 90},
}  # fmt: skip
pipeline = functools.cache(chinesekit.load)


def states(pipe, text, more):
    """Returns all that encode_prompt makes of a text that says how it was read."""
    takes = inspect.signature(pipe.encode_prompt).parameters
    options = {name: None for name in takes if is_text(name)} | {
        "prompt": text, "device": "cpu", "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False, **more,
    }  # fmt: skip
    with torch.no_grad():
        made = pipe.encode_prompt(**{name: v for name, v in options.items() if name in takes})
    flat = [one for part in made for one in (part if isinstance(part, list) else [part])]
    return [one for one in flat if isinstance(one, torch.Tensor)]


def same(one, other):
    # Kernels round by how long a text is, read or not.
    pairs = zip(one, other, strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_told_as_cut_changes_nothing_and_what_stands_before_does(family):
    pipe, more = pipeline(family), FAMILIES[family]
    (one,) = readings(pipe, {"prompt": LONG, **more}, None)
    assert (one.argument, one.place, one.chunks) == ("prompt", 0, 1)
    read = states(pipe, LONG, more)
    assert same(states(pipe, LONG[: one.kept] + " zebra" * 30, more), read)
    assert not same(states(pipe, LONG[: one.kept - 8] + " zebra" * 30, more), read)
    assert readings(pipe, {"prompt": LONG[: one.kept], **more}, None) == []


def test_long_text_that_only_the_second_encoder_reads_is_told_by_its_name():
    pipe = pipeline("flux")
    found = readings(pipe, {"prompt": LONG, "prompt_2": "a cat", "max_sequence_length": 512}, None)
    # Of the first prompt CLIP reads its window; T5, with the wider one, reads the second.
    assert [(one.argument, one.kept is not None) for one in found] == [("prompt", True)]
    assert readings(pipe, {"prompt": LONG[:200], "max_sequence_length": 512}, None) == []


def test_texts_in_lists_are_told_by_their_place_and_what_is_no_text_is_passed_over():
    said = {"prompt": ["a cat", LONG, None, b"x" * 99], "negative_prompt": LONG, "image": LONG}
    found = readings(pipeline("sd15"), said, None)
    assert [(one.argument, one.place) for one in found] == [("prompt", 1), ("negative_prompt", 0)]
    assert readings(pipeline("sd15"), {"prompt": f"\ud800{LONG}"}, None) == []
    assert readings(object(), {"prompt": LONG}, None) == []


class KolorsPipeline:
    """Named as one whose tokenizer does not say where its tokens stand."""

    def __init__(self):
        from transformers import MarianTokenizer

        self.tokenizer = MarianTokenizer.from_pretrained(str(promptkit.translator()))

    def __call__(self, prompt, max_sequence_length=256):
        """Is not called; it is known by what it takes."""


@pytest.mark.parametrize("times", [1, 4, 6, 40, 400])
def test_tokenizer_that_does_not_say_where_its_tokens_stand_is_asked_all_the_same(times):
    pipe, text = KolorsPipeline(), "一只红色的猫在雪里和一只蓝色的桥在河边" * times
    assert not pipe.tokenizer.is_fast
    found = readings(pipe, {"prompt": text, "max_sequence_length": 50}, None)

    def count(text):
        return len(pipe.tokenizer(text)["input_ids"])

    if count(text) <= 50:
        assert found == []
    else:
        assert count(text[: found[0].kept]) <= 50 < count(text[: found[0].kept + 1])


def test_tokenizer_of_the_users_own_is_not_asked():
    made = pipeline("sd15")
    tokenizer, made.tokenizer = made.tokenizer, lambda *_, **__: None
    try:
        assert readings(made, {"prompt": LONG}, None) == []
    finally:
        made.tokenizer = tokenizer


def test_text_that_is_read_in_pieces_is_told_with_their_number():
    arguments = {"prompt": [LONG, "a cat"]}
    (one,) = readings(pipeline("sd15"), arguments, in_pieces(items(arguments)))
    assert (one.place, one.kept) == (0, None) and one.chunks > 1


def test_text_beside_another_encoders_is_cut_and_that_one_is_not():
    pipe, arguments = pipeline("sd15"), {"prompt": ["一座红房子", LONG], "negative_prompt": LONG}
    found = readings(pipe, arguments, told(pipe, arguments))
    assert [(one.argument, one.place) for one in found] == [("prompt", 1), ("negative_prompt", 0)]
    arguments["prompt"][0] = "一座红房子" * 50
    chinesekit.MEANS.setdefault(arguments["prompt"][0], "a red house")
    assert readings(pipe, arguments, told(pipe, arguments)) == found


@pytest.mark.parametrize(
    ("family", "negative", "missing"),
    [("sdxl", None, ["zeros"]), ("sdxl", "", []), ("sd15", None, []), ("flux", None, [])],
)
def test_negative_that_was_not_given_is_told_for_what_the_model_has_in_its_place(
    family, negative, missing
):
    pipe = pipeline(family)
    arguments = {"prompt": "一座红房子", "negative_prompt": negative}
    found = readings(pipe, arguments, told(pipe, arguments))
    assert [one.missing for one in found] == missing


def test_pipeline_that_takes_no_negative_says_so():
    from diffusers import LatentConsistencyModelPipeline

    made = pipeline("sd15")
    lcm = LatentConsistencyModelPipeline(**made.components)
    arguments = {"prompt": "一座红房子"}
    found = readings(lcm, arguments, told(made, arguments))
    assert [one.missing for one in found] == ["nothing"]
