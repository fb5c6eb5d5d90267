"""What a call gives for each prompt and each image, counted before a worker is asked."""

import numpy
import pytest

from zhcache.errors import UsageError
from zhcache.resident.counts import check

IMAGES = ["prompt", "num_images_per_prompt"]


def refused(**arguments):
    with pytest.raises(UsageError) as told:
        check(arguments, IMAGES)
    assert told.value.hint
    return told.value.message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": [1, 2]}, "seed is a list of 2, the number of images is 3: 3 prompts by 1"),
        ({"seed": [1, 2, 3, 4]}, "seed is a list of 4, the number of images is 3: 3 prompts by 1"),
        ({"seed": []}, "seed is a list of 0, the number of images is 3: 3 prompts by 1"),
        (
            {"seed": [1, 2, 3], "num_images_per_prompt": 2},
            "seed is a list of 3, the number of images is 6: 3 prompts by 2",
        ),
        (
            {"generator": [object()]},
            "generator is a list of 1, the number of images is 3: 3 prompts by 1",
        ),
        ({"negative_prompt": ["x", "y"]}, "negative_prompt is a list of 2, prompt one of 3"),
        ({"prompt_2": []}, "prompt_2 is a list of 0, prompt one of 3"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0 cannot be meant"),
        ({"num_inference_steps": -1}, "num_inference_steps=-1 cannot be meant"),
    ],
)
def test_numbers_that_differ_are_both_named(given, message):
    assert refused(prompt=["a", "b", "c"], **given) == message


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt is an empty list: there is nothing to make"),
        (b"red", "prompt is a bytes, not a text"),
        ({"red"}, "prompt is a set, not a text"),
        (["a", None], "prompt[1] is a NoneType, not a text"),
        (("a", b"b"), "prompt[1] is a bytes, not a text"),
        (["a", 3], "prompt[1] is a int, not a text"),
        (numpy.array(["a"]), "prompt is a ndarray, not a text"),
    ],
)
def test_what_is_no_text_is_named_with_its_place(prompt, message):
    assert refused(prompt=prompt, seed=1) == message


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "a", "seed": 1},
        {"prompt": ["a", "b"], "seed": (1, 2), "negative_prompt": "x"},
        {"prompt": "a", "seed": [1, 2], "num_images_per_prompt": numpy.int64(2)},
        {"prompt": ["a", "b"], "negative_prompt": ["x", "y"], "num_images_per_prompt": None},
        {"prompt_embeds": numpy.zeros((2, 7, 4)), "seed": [1, 2]},
        # Of these nobody here can tell what they are; the pipeline does.
        {"prompt": {"0": "a"}, "seed": [1, 2]},
        {"prompt": [["a"], ["b"]], "negative_prompt": None},
        {"image": object(), "seed": [1, 2]},
        {"num_inference_steps": "many"},
    ],
)
def test_what_agrees_and_what_cannot_be_told_is_passed_on(given):
    check(given, IMAGES)


def test_images_of_a_pipeline_that_may_make_other_things_are_not_counted():
    check({"prompt": ["a"], "seed": [1, 2]}, ["prompt", "num_videos_per_prompt"])
