"""Calls of a stand-in give what stock diffusers gives, and leave nothing behind for the next."""

import importlib.util

import numpy
import pytest
import torch
from PIL import Image, ImageChops

from zhcache.errors import UsageError, ZhcacheError

FAST = {"num_inference_steps": 2}


def seeded(seed):
    return torch.Generator("cpu").manual_seed(seed)


def same(one, other):
    return len(one) == len(other) and all(
        a.size == b.size and ImageChops.difference(a, b).getbbox() is None
        for a, b in zip(one, other, strict=True)
    )


def test_seed_gives_the_image_of_its_generator(pipe, stock):
    mine = pipe("a red house", seed=7, **FAST)
    assert same(mine.images, stock("a red house", generator=seeded(7), **FAST).images)
    assert not same(mine.images, pipe("a red house", seed=8, **FAST).images)


def test_one_seed_for_each_image_makes_each_as_it_is_made_alone(pipe, stock):
    mine = pipe(["a house", "a hill"], seed=[1, 2], **FAST).images
    alone = [
        stock(text, generator=seeded(seed), **FAST).images[0]
        for text, seed in (("a house", 1), ("a hill", 2))
    ]
    assert same(mine, alone)
    together = pipe(["a house", "a hill"], seed=[1, 2], batch=2, **FAST).images
    theirs = stock(["a house", "a hill"], generator=[seeded(1), seeded(2)], **FAST)
    assert same(together, theirs.images)


def test_generators_of_a_list_are_left_where_their_images_left_them(pipe, stock):
    mine, theirs = ([seeded(1), seeded(2)] for _ in range(2))
    images = pipe(["a house", "a hill"], generator=mine, **FAST).images
    alone = [
        stock(text, generator=generator, **FAST).images[0]
        for text, generator in zip(("a house", "a hill"), theirs, strict=True)
    ]
    assert same(images, alone)
    assert all(
        one.get_state().equal(other.get_state()) for one, other in zip(mine, theirs, strict=True)
    )


def test_tuple_of_a_list_is_one_tuple(pipe):
    images, verdicts = pipe(["a house", "a hill"], seed=[1, 2], return_dict=False, **FAST)
    assert (len(images), verdicts) == (2, None)


def test_several_images_of_a_prompt(pipe, stock):
    mine = pipe("a hill", num_images_per_prompt=3, seed=5, negative_prompt="rain", **FAST)
    theirs = stock(
        "a hill", num_images_per_prompt=3, generator=seeded(5), negative_prompt="rain", **FAST
    )
    assert same(mine.images, theirs.images)


def test_generator_goes_on_where_the_call_left_it(pipe, stock):
    mine, theirs = seeded(3), seeded(3)
    for _ in range(2):
        assert same(
            pipe("a hill", generator=mine, **FAST).images,
            stock("a hill", generator=theirs, **FAST).images,
        )
    assert mine.get_state().equal(theirs.get_state())


@pytest.mark.parametrize("kind", ["np", "pt", "latent"])
def test_output_types(pipe, stock, kind):
    mine = pipe("a hill", seed=3, output_type=kind, **FAST).images
    theirs = stock("a hill", generator=seeded(3), output_type=kind, **FAST).images
    assert type(mine) is type(theirs)
    assert numpy.array_equal(numpy.asarray(mine), numpy.asarray(theirs))


def test_latents_and_embeddings_are_taken(pipe, stock):
    latents = torch.randn(1, 4, 8, 8, generator=seeded(1))
    embeds, negative = stock.encode_prompt("a hill", torch.device("cpu"), 1, True)
    given = {"latents": latents, "prompt_embeds": embeds, "negative_prompt_embeds": negative}
    assert same(pipe(**given, **FAST).images, stock(**given, **FAST).images)


def test_result_reads_as_diffusers_output_does(pipe, stock):
    mine, theirs = pipe("x", seed=1, **FAST), stock("x", generator=seeded(1), **FAST)
    assert mine.class_name == type(theirs).__name__
    assert mine.keys() == list(theirs.keys())
    assert mine.nsfw_content_detected is theirs.nsfw_content_detected is None
    assert same(mine[0], theirs[0]) and same(mine["images"], theirs["images"])
    assert len(mine.to_tuple()) == len(theirs.to_tuple())
    with pytest.raises(AttributeError):
        _ = mine.frames
    as_tuple = pipe("x", seed=1, return_dict=False, **FAST)
    assert isinstance(as_tuple, tuple) and as_tuple[1] is None and same(as_tuple[0], mine.images)


def test_image_to_image_and_inpainting_over_the_same_components(pipe, stock):
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

    start = Image.effect_noise((64, 64), 80).convert("RGB")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    more = {"requires_safety_checker": False, **stock.components}
    for kind, given in (
        (StableDiffusionImg2ImgPipeline, {"image": start, "strength": 0.6}),
        (StableDiffusionInpaintPipeline, {"image": start, "mask_image": mask, "strength": 0.9}),
    ):
        theirs = kind(**more)
        theirs.set_progress_bar_config(disable=True)
        theirs.scheduler = type(stock.scheduler).from_config(stock.scheduler.config)
        expected = theirs("a hill", generator=seeded(4), num_inference_steps=4, **given)
        mine = pipe.using(kind.__name__)(prompt="a hill", seed=4, num_inference_steps=4, **given)
        assert same(mine.images, expected.images), kind
    with pytest.raises(UsageError, match="DiTPipeline needs"):
        pipe.using("DiTPipeline")(class_labels=[1], **FAST)
    with pytest.raises(UsageError, match="no pipeline 'os'"):
        pipe.using("os")(prompt="x")


def test_scheduler_by_name_and_by_object_for_one_call(pipe, stock):
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler

    plain = pipe("a hill", seed=2, **FAST).images
    named = pipe("a hill", seed=2, scheduler="EulerDiscreteScheduler", **FAST).images
    own = DPMSolverMultistepScheduler.from_config(stock.scheduler.config, use_karras_sigmas=True)
    given = pipe("a hill", seed=2, scheduler=own, **FAST).images
    kept = stock.scheduler
    try:
        stock.scheduler = EulerDiscreteScheduler.from_config(kept.config)
        assert same(named, stock("a hill", generator=seeded(2), **FAST).images)
        stock.scheduler = own
        assert same(given, stock("a hill", generator=seeded(2), **FAST).images)
    finally:
        stock.scheduler = kept
    assert same(plain, pipe("a hill", seed=2, **FAST).images)


@pytest.mark.parametrize("name", ["Euler", "UNet2DConditionModel", "__doc__", "os.system", 3])
def test_scheduler_must_be_one_of_diffusers(pipe, name):
    with pytest.raises(UsageError, match="scheduler"):
        pipe("x", scheduler=name, **FAST)


def test_scheduler_whose_libraries_are_missing_is_told_of_with_them(pipe):
    if importlib.util.find_spec("torchsde") is not None:
        pytest.skip("torchsde is installed")
    with pytest.raises(UsageError, match="DPMSolverSDEScheduler needs torch, torchsde"):
        pipe("x", scheduler="DPMSolverSDEScheduler", **FAST)


def test_scheduler_of_load_pipeline_holds_for_all_calls(front, pipe):
    from zhcache.resident.open import open_resident

    named = pipe("a hill", seed=2, scheduler="EulerDiscreteScheduler", **FAST).images
    with open_resident("org/pipe", options={"scheduler": "EulerDiscreteScheduler"}) as other:
        assert same(other("a hill", seed=2, **FAST).images, named)
    # The same worker served both: a scheduler is no reason for another copy of the weights.
    assert all(request.options == {} for request in front.requests)


def test_calls_without_a_seed_differ(pipe):
    assert not same(pipe("x", **FAST).images, pipe("x", **FAST).images)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"promt": "x"}, "no argument promt"),
        ({"seed": 1.5}, "seed takes whole numbers"),
        ({"seed": True}, "seed takes whole numbers"),
        ({"seed": 2**64}, "seed takes whole numbers"),
        ({"seed": 1, "generator": seeded(1)}, "exclude each other"),
        ({"prompt": open}, "prompt is a builtin_function_or_method, not a text"),
        ({"prompt": []}, "prompt is an empty list"),
        ({"seed": [1, 2]}, "seed is a list of 2, the number of images is 1"),
        ({"callback_on_step_end": 3}, "takes a function"),
        ({"callback_on_step_end_tensor_inputs": ["latents"]}, "stay in the worker"),
    ],
    # By its words: a generator's text holds its address, which differs between test processes.
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_cannot_be_meant_is_refused_before_it_is_sent(front, pipe, arguments, words):
    with pytest.raises(UsageError, match=words):
        pipe(**({"prompt": "x", **FAST} | arguments))
    assert not front.calls


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"height": 7, "width": 64}, "divisible by 8"),
        ({"prompt": {"0": "x"}}, "has to be of type"),
        ({"num_inference_steps": "many"}, "refused its arguments"),
        ({"latents": torch.zeros(1, 4, 3, 3), "height": 64, "width": 64}, ""),
        ({"cross_attention_kwargs": {"scale": "x"}}, ""),
        ({"height": 8 * 10**9, "width": 8 * 10**9}, "no memory left"),
    ],
    ids=str,
)
def test_failed_call_is_told_and_changes_nothing_for_the_next(pipe, stock, arguments, words):
    if arguments.get("cross_attention_kwargs") or "latents" in arguments:
        # These may be harmless to a pipeline; whatever they do, the next call is as before.
        try:
            pipe(**({"prompt": "x", **FAST} | arguments))
        except ZhcacheError as error:
            assert "Traceback" not in str(error)
    else:
        with pytest.raises(ZhcacheError, match=words):
            pipe(**({"prompt": "x", **FAST} | arguments))
    expected = stock("a hill", generator=seeded(6), **FAST).images
    assert same(pipe("a hill", seed=6, **FAST).images, expected)


def test_no_memory_is_told_as_such(pipe):
    with pytest.raises(ZhcacheError) as caught:
        pipe("x", height=8 * 10**6, width=8 * 10**6, **FAST)
    assert caught.value.code == "no_space"


def test_option_that_leaves_a_component_out(front, pipeline_dir):
    from zhcache.resident.open import open_resident

    with pytest.raises(UsageError, match="only left out with None"):
        open_resident("org/pipe", options={"unet": "evil/repo"})
    with pytest.raises(UsageError, match="no option custom_pipeline"):
        open_resident("org/pipe", options={"custom_pipeline": "evil"})
    with pytest.raises(UsageError, match="cannot be sent"):
        open_resident("org/pipe", options={"unet": torch.nn.Linear(1, 1)})
    with pytest.raises(UsageError, match="cannot be given"):
        open_resident("org/pipe", options={"image": Image.new("RGB", (1, 1))})
