"""Calls cut into calls for fewer images, their results put together, their steps counted."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zhcache.errors import UsageError
from zhcache.protocol.prompts import OwnRead
from zhcache.resident.gather import gathered
from zhcache.resident.result import Result
from zhcache.resident.split import of_kin, split
from zhcache.resident.steps import Steps
from zhcache.resident.values import Unread

PARAMETERS = ["prompt", "negative_prompt", "num_images_per_prompt", "image", "generator"]
PICTURES = [Image.new("L", (1, 1), shade) for shade in range(3)]


def cut(
    workers=1, batch=None, parameters=PARAMETERS, conditions=None, has_one_net=False, **arguments
):
    parts = split(
        arguments,
        parameters,
        workers=workers,
        batch=batch,
        conditions=conditions,
        has_one_net=has_one_net,
    )
    return [dict(part.arguments) for part in parts]


def test_seed_for_each_image_is_a_call_for_each_image_whatever_the_workers():
    expected = [
        {"prompt": p, "seed": s, "negative_prompt": "x"}
        for p, s in zip("abc", (3, 1, 2), strict=True)
    ]
    for workers in (1, 2, 5):
        made = cut(workers, prompt=["a", "b", "c"], seed=[3, 1, 2], negative_prompt="x")
        assert made == expected


def test_pictures_for_a_kin_are_each_prompts_where_its_name_says_so():
    asked = {"prompt": ["a", "b", "c"], "image": PICTURES, "seed": [1, 2, 3]}
    for name in ("StableDiffusionImg2ImgPipeline", "FluxInpaintPipeline"):
        made = cut(2, parameters=of_kin(name, PARAMETERS), **asked)
        assert [one["image"] for one in made] == PICTURES
    # Of several nets each has its picture; of what makes films nothing is known to be an image's.
    for name in ("StableDiffusionControlNetImg2ImgPipeline", "StableDiffusionXLAdapterPipeline"):
        assert cut(2, parameters=of_kin(name, PARAMETERS), **asked) == []
    assert cut(2, parameters=of_kin("WanImg2ImgPipeline", ["prompt"]), **asked) == []
    assert of_kin("StableDiffusionPipeline", PARAMETERS)
    assert not of_kin("StableDiffusionXLControlNetUnionPipeline", PARAMETERS)


def test_pictures_for_one_net_are_each_prompts_and_one_for_all_goes_to_all():
    asked = {"prompt": ["a", "b", "c"], "image": PICTURES, "seed": [1, 2, 3]}
    own = [*PARAMETERS, "controlnet_conditioning_scale", "control_image"]
    for parameters in (own, of_kin("StableDiffusionControlNetPipeline", own)):
        made = cut(2, parameters=parameters, has_one_net=True, **asked)
        assert [one["image"] for one in made] == PICTURES
        assert cut(2, parameters=parameters, **asked) == []
        shared = cut(2, parameters=parameters, **{**asked, "image": PICTURES[0]})
        assert [one["image"] for one in shared] == [PICTURES[0]] * 3
    kin = of_kin("StableDiffusionControlNetImg2ImgPipeline", own)
    made = cut(2, parameters=kin, has_one_net=True, control_image=PICTURES[::-1], **asked)
    assert [one["control_image"] for one in made] == PICTURES[::-1]


def test_several_images_of_each_prompt_have_its_seeds_in_order():
    made = cut(prompt=["a", "b"], seed=[1, 2, 3, 4], num_images_per_prompt=2)
    assert [(one["prompt"], one["seed"], one["num_images_per_prompt"]) for one in made] == [
        ("a", 1, 1), ("a", 2, 1), ("b", 3, 1), ("b", 4, 1),
    ]  # fmt: skip


def test_one_prompt_with_several_seeds_is_cut():
    assert cut(prompt="a", seed=[1, 2], num_images_per_prompt=2) == [
        {"prompt": "a", "seed": 1, "num_images_per_prompt": 1},
        {"prompt": "a", "seed": 2, "num_images_per_prompt": 1},
    ]


def test_batch_makes_so_many_together_for_any_number_of_workers():
    arguments = {"prompt": list("abcde"), "seed": [1, 2, 3, 4, 5]}
    for workers in (1, 3):
        made = cut(workers, 2, **arguments)
        assert [one["prompt"] for one in made] == [["a", "b"], ["c", "d"], "e"]
        assert [one["seed"] for one in made] == [[1, 2], [3, 4], 5]
    assert cut(1, 2, prompt="a", seed=[1, 2, 3, 4], num_images_per_prompt=4) == [
        {"prompt": "a", "seed": [1, 2], "num_images_per_prompt": 2},
        {"prompt": "a", "seed": [3, 4], "num_images_per_prompt": 2},
    ]
    # Between two prompts.
    assert cut(1, 3, prompt=["a", "b"], seed=[1, 2, 3, 4], num_images_per_prompt=2)[0] == {
        "prompt": ["a", "a", "b"], "seed": [1, 2, 3], "num_images_per_prompt": 1,
    }  # fmt: skip


def test_without_seeds_there_is_an_even_part_for_each_worker():
    assert cut(1, prompt=list("abcde")) == []
    assert [one["prompt"] for one in cut(2, prompt=list("abcde"))] == [["a", "b"], ["c", "d", "e"]]
    assert [one["prompt"] for one in cut(9, prompt=list("abc"))] == ["a", "b", "c"]


def test_one_seed_or_one_generator_for_several_images_is_not_cut():
    one = object()
    assert cut(2, prompt=["a", "b"], seed=7) == []
    assert cut(2, prompt=["a", "b"], generator=one) == []
    assert cut(2, prompt=["a", "b"], generator=[one, one]) == []


def test_generators_of_their_own_are_cut_as_seeds_are():
    first, second = object(), object()
    made = cut(prompt=["a", "b"], generator=[first, second])
    assert [one["generator"] for one in made] == [first, second]


def test_images_and_embeddings_go_with_their_prompts():
    embeds = numpy.arange(6).reshape(3, 2)
    made = cut(
        prompt_embeds=embeds, pooled_prompt_embeds=embeds, image=PICTURES, seed=[1, 2, 3],
        num_images_per_prompt=1,
    )  # fmt: skip
    assert [one["image"] for one in made] == PICTURES
    assert [one["prompt_embeds"].tolist() for one in made] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    latents = numpy.zeros((2, 4, 8, 8))
    parts = cut(prompt="a", num_images_per_prompt=2, latents=latents, seed=[1, 2])
    assert [one["latents"].shape for one in parts] == [(1, 4, 8, 8)] * 2


@pytest.mark.parametrize(
    ("more", "parameters"),
    [
        ({"image": PICTURES[:2]}, [*PARAMETERS, "controlnet_conditioning_scale"]),
        ({"image": PICTURES}, PARAMETERS),
        ({"image": PICTURES[:2], "num_images_per_prompt": 2, "seed": [1, 2, 3, 4]}, PARAMETERS),
        ({"ip_adapter_image": PICTURES[:2]}, PARAMETERS),
        ({"something": ["x", "y"]}, PARAMETERS),
        ({"negative_prompt": ["x"]}, PARAMETERS),
        ({"seed": [1, 2, 3]}, PARAMETERS),
        ({"cross_attention_kwargs": {"boxes": [1, 2]}}, PARAMETERS),
        ({}, ["prompt", "num_videos_per_prompt"]),
        ({}, []),
    ],
)
def test_what_cannot_be_told_to_be_of_one_image_is_made_whole(more, parameters):
    arguments = {"prompt": ["a", "b"], "seed": [1, 2], **more}
    assert cut(2, parameters=parameters, **arguments) == []


def test_what_holds_for_all_images_goes_to_all_calls():
    shared = {
        "timesteps": [3, 2], "original_size": (8, 8), "guidance_scale": 2.0, "image": PICTURES[0],
        "cross_attention_kwargs": {"scale": 0.5}, "output_type": "pil", "negative_prompt": None,
    }  # fmt: skip
    made = cut(prompt=["a", "b"], seed=[1, 2], **shared)
    assert [{k: one[k] for k in shared} for one in made] == [shared, shared]


@pytest.mark.parametrize("batch", [0, -1, True, "2", 1.5])
def test_batch_that_cannot_be_meant_is_refused(batch):
    with pytest.raises(UsageError, match="batch"):
        cut(1, batch, prompt=["a", "b"], seed=[1, 2])


def test_batch_of_what_cannot_be_cut_is_refused():
    with pytest.raises(UsageError, match="images at a time"):
        cut(1, 2, prompt=["a", "b", "c"], seed=7)


def test_conditions_and_what_is_said_of_texts_go_with_their_prompts():
    conditions = {"prompt": ["A", None], "negative_prompt": [None, "B"], "empty": 0}
    arguments = {"prompt": ["a", "b"], "negative_prompt": "n", "seed": [1, 2]}
    parts = split(arguments, PARAMETERS, workers=1, conditions=conditions)
    assert [part.conditions for part in parts] == [
        {"prompt": ["A"], "negative_prompt": [None], "empty": 0},
        {"prompt": [None], "negative_prompt": ["B"], "empty": 0},
    ]
    said = [OwnRead(argument="prompt", place=0), OwnRead(argument="negative_prompt", place=0)]
    assert [one.place for one in parts[1].own(arguments, said)] == [1, 0]


@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.none() | st.integers(1, 30),
    st.booleans(),
)  # fmt: skip
def test_parts_have_every_image_once_and_in_order(prompts, times, workers, batch, seeded):
    texts = [f"p{number}" for number in range(prompts)]
    seeds = list(range(prompts * times))
    arguments = {"prompt": texts, "num_images_per_prompt": times}
    arguments |= {"seed": seeds} if seeded else {}
    made = []
    for part in cut(workers, batch, **arguments) or [arguments]:
        each = part["prompt"] if isinstance(part["prompt"], list) else [part["prompt"]]
        made += [text for text in each for _ in range(part["num_images_per_prompt"])]
        if seeded:
            seed = part["seed"] if isinstance(part["seed"], list) else [part["seed"]]
            assert seed == seeds[len(made) - len(seed) : len(made)]
    assert made == [text for text in texts for _ in range(times)]


def test_results_are_put_together_field_by_field():
    parts = [
        Result("Out", {"images": [n], "nsfw": None, "masks": numpy.full((1, 2), n), "kind": "x"})
        for n in range(3)
    ]
    whole = gathered(parts)
    assert (whole.class_name, whole.images, whole.kind) == ("Out", [0, 1, 2], "x")
    assert whole.masks.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert whole.keys() == ["images", "masks", "kind"]
    assert gathered([([1], [False]), ([2], [True])]) == ([1, 2], [False, True])


def test_field_that_cannot_be_held_here_stays_so():
    whole = gathered([Result("Out", {"images": Unread("array", "numpy")})] * 2)
    with pytest.raises(UsageError, match="numpy"):
        whole["images"]


def test_steps_of_parts_count_up_once_each():
    steps = Steps(2)
    told = [steps.count(part, step, 3) for part, step in ((0, 0), (1, 0), (0, 1), (0, 2))]
    assert told == [0, 1, 2, 3]
    # The second is made again after its worker died, and one of its steps is not heard of.
    assert [steps.count(1, step, 3) for step in (0, 2)] == [None, 5]


def test_steps_that_nobody_told_of_are_counted_when_their_part_is_over():
    steps = Steps(2)
    steps.count(0, 0, 4)
    steps.over(0)
    assert steps.count(1, 0, 4) == 4


def test_steps_of_one_call_are_its_own():
    steps = Steps(1)
    assert [steps.count(0, step, 2) for step in (0, 1, 0, 1)] == [0, 1, 0, 1]
