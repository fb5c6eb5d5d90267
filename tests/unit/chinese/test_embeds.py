"""Embeddings in place of texts draw, bit for bit, what the texts draw; family by family."""

import functools

import numpy
import pytest
import torch

from harness import chinesekit
from harness.chinesekit import call, meant, told
from zhcache.chinese.conditions import in_pieces
from zhcache.chinese.embeds import apply
from zhcache.chinese.texts import items
from zhcache.errors import UsageError

HOUSE, INK, BLURRY = "一座红房子", "山水画，水墨", "模糊"
FAMILIES = ["sd15", "sdxl", "sd3", "flux", "pixart"]
pipeline = functools.cache(chinesekit.load)


def injected(pipe, arguments, **more):
    given = apply(pipe, arguments, told(pipe, arguments, **more))
    assert not any(isinstance(value, str) for value in given.values())
    return call(pipe, given)


CALLS = {
    "plain": {"prompt": HOUSE},
    "no guidance": {"prompt": HOUSE, "guidance_scale": 1.0},
    "guided": {"prompt": HOUSE, "guidance_scale": 7.5},
    "negative": {"prompt": HOUSE, "negative_prompt": BLURRY, "guidance_scale": 7.5},
    "empty negative": {"prompt": HOUSE, "negative_prompt": "", "guidance_scale": 7.5},
    "English negative": {"prompt": HOUSE, "negative_prompt": "blurry", "guidance_scale": 7.5},
    "Chinese negative alone": {"prompt": "a cat", "negative_prompt": BLURRY},
    "several images": {"prompt": HOUSE, "num_images_per_prompt": 2, "negative_prompt": BLURRY},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CALLS)
def test_injected_states_draw_what_the_texts_draw(family, name):
    pipe, arguments = pipeline(family), dict(CALLS[name])
    if family == "flux" and "negative_prompt" in arguments:
        arguments["true_cfg_scale"] = 3.0
    drawn = injected(pipe, arguments)
    assert len(drawn) == arguments.get("num_images_per_prompt", 1)
    assert numpy.array_equal(drawn, call(pipe, meant(arguments)))


@pytest.mark.parametrize("family", FAMILIES)
def test_lists_come_back_in_order_with_english_among_them(family):
    pipe = pipeline(family)
    arguments = {"prompt": [HOUSE, "a cat", INK], "num_images_per_prompt": 2}
    drawn = injected(pipe, arguments)
    plain = call(pipe, meant(arguments))
    assert drawn.shape == plain.shape and len(drawn) == 6
    # Texts are encoded in other company here, and the kernels round by how many there are.
    assert numpy.allclose(drawn, plain, atol=2e-3)
    assert not numpy.allclose(drawn[0], drawn[2], atol=2e-3)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_longer_prompt_has_its_negative_lengthened_by_the_empty_text(family):
    pipe, arguments = pipeline(family), {"prompt": HOUSE, "negative_prompt": "blurry"}
    given = apply(pipe, arguments, told(pipe, arguments, pieces={HOUSE: 3}))
    assert given["prompt_embeds"].shape[:2] == (1, 231)
    nothing = chinesekit.states(pipe, "")["prompt_embeds"]
    negative = chinesekit.states(pipe, "blurry")["prompt_embeds"]
    expected = torch.cat([negative, nothing, nothing], dim=1)
    assert torch.equal(given["negative_prompt_embeds"], expected)
    assert call(pipe, given).shape == (1, 64, 64, 3)


def test_shorter_states_are_masked_where_the_family_has_masks():
    pipe, arguments = pipeline("pixart"), {"prompt": HOUSE, "max_sequence_length": 20}
    conditions = told(pipe, arguments)
    conditions["prompt"][0] = {"prompt_embeds": conditions["prompt"][0]["prompt_embeds"][:11]}
    conditions["negative_prompt"] = [None]
    given = apply(pipe, arguments, conditions)
    assert given["prompt_embeds"].shape == given["negative_prompt_embeds"].shape == (1, 20, 32)
    assert given["prompt_attention_mask"].tolist() == [[1] * 11 + [0] * 9]
    assert call(pipe, given).shape == (1, 64, 64, 3)


def test_encoder_reads_a_pair_whole():
    pipe, arguments = pipeline("sd15"), {"prompt": ["a cat", HOUSE], "negative_prompt": BLURRY}
    conditions = told(pipe, arguments, kind="encoder")
    assert all(conditions["prompt"]) and all(conditions["negative_prompt"])
    half = told(pipe, arguments)
    assert [one is None for one in half["prompt"]] == [True, False]


def test_sdxl_leaves_a_missing_negative_to_the_zeros_it_was_trained_with():
    pipe, arguments = pipeline("sdxl"), {"prompt": HOUSE}
    assert pipe.config.force_zeros_for_empty_prompt
    given = apply(pipe, arguments, told(pipe, arguments))
    assert given.get("negative_prompt_embeds") is None


@pytest.mark.parametrize(
    ("family", "kin"),
    [
        ("sd15", "StableDiffusionImg2ImgPipeline"),
        ("sd15", "StableDiffusionInpaintPipeline"),
        ("sd15", "StableDiffusionPAGPipeline"),
        ("sdxl", "StableDiffusionXLImg2ImgPipeline"),
        ("sdxl", "StableDiffusionXLInpaintPipeline"),
        ("sd3", "StableDiffusion3Img2ImgPipeline"),
        ("flux", "FluxImg2ImgPipeline"),
    ],
)
def test_kin_over_the_same_components_draw_the_same(family, kin):
    import diffusers
    from PIL import Image

    own = pipeline(family)
    pipe = getattr(diffusers, kin)(**own.components)
    pipe.set_progress_bar_config(disable=True)
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    arguments = {"prompt": HOUSE, "strength": 0.9}
    if "PAG" in kin:
        del arguments["strength"]
    else:
        arguments["image"] = picture
    if "Inpaint" in kin:
        arguments["mask_image"] = Image.new("L", (64, 64), 255)
    assert numpy.array_equal(injected(pipe, arguments), call(pipe, meant(arguments)))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_controlnet_kin_draw_the_same(family):
    import diffusers
    from PIL import Image

    own = pipeline(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        control = diffusers.ControlNetModel.from_unet(
            own.unet, conditioning_embedding_out_channels=(16, 32, 32, 32)
        )
    kind = "StableDiffusionXL" if family == "sdxl" else "StableDiffusion"
    pipe = getattr(diffusers, f"{kind}ControlNetPipeline")(**own.components, controlnet=control)
    pipe.set_progress_bar_config(disable=True)
    arguments = {
        "prompt": HOUSE, "negative_prompt": BLURRY, "image": Image.new("RGB", (64, 64), "red"),
    }  # fmt: skip
    assert numpy.array_equal(injected(pipe, arguments), call(pipe, meant(arguments)))


def test_pipeline_without_a_text_encoder_draws_from_conditions_alone():
    pipe, arguments = pipeline("sd15"), {"prompt": HOUSE, "negative_prompt": BLURRY}
    conditions = told(pipe, arguments)
    expected = call(pipe, meant(arguments))
    bare = type(pipe)(**{**pipe.components, "text_encoder": None, "tokenizer": None})
    bare.set_progress_bar_config(disable=True)
    assert numpy.array_equal(call(bare, apply(bare, arguments, conditions)), expected)


def test_clip_skip_is_of_the_base_prompts_alone():
    pipe = pipeline("sdxl")
    arguments = {"prompt": "a cat", "negative_prompt": BLURRY, "clip_skip": 1}
    assert numpy.array_equal(injected(pipe, arguments), call(pipe, meant(arguments)))


def test_half_precision_is_the_pipelines_own():
    pipe, arguments = chinesekit.load("sd15", "bfloat16"), {"prompt": HOUSE}
    conditions = told(pipeline("sd15"), arguments)
    given = apply(pipe, arguments, conditions)
    assert given["prompt_embeds"].dtype == given["negative_prompt_embeds"].dtype == torch.bfloat16


def test_native_family_takes_no_conditions():
    pipe = pipeline("z-image", "bfloat16")
    with pytest.raises(UsageError, match="ZImagePipeline"):
        apply(pipe, {"prompt": HOUSE}, {"prompt": [None], "negative_prompt": [None], "empty": {}})


def test_states_of_another_width_are_named():
    pipe, arguments = pipeline("sd15"), {"prompt": [HOUSE, "a cat"]}
    conditions = told(pipe, arguments)
    conditions["prompt"][0] = {"prompt_embeds": torch.zeros(77, 5)}
    with pytest.raises(UsageError, match="do not fit"):
        apply(pipe, arguments, conditions)


@pytest.mark.parametrize("name", ["prompt_embeds", "pooled_prompt_embeds"])
def test_states_that_lack_what_the_pipeline_takes_are_named(name):
    pipe, arguments = pipeline("sdxl"), {"prompt": HOUSE}
    conditions = told(pipe, arguments)
    conditions["prompt"][0] = {
        given: states for given, states in conditions["prompt"][0].items() if given != name
    }
    with pytest.raises(UsageError, match=f"{name} do not fit"):
        apply(pipe, arguments, conditions)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_long_text_of_the_base_is_read_in_pieces(family):
    pipe = pipeline(family)
    long, short = " ".join(f"a red house with {n} doors," for n in range(20)), "blurry"
    said = {"prompt": long, "negative_prompt": short}
    given = apply(pipe, said, in_pieces(items(said)))
    count = given["prompt_embeds"].shape[1] // 77
    assert count > 1 and given["prompt_embeds"].shape == given["negative_prompt_embeds"].shape
    first = given["prompt_embeds"][:, :77]
    assert not any(torch.equal(first, one) for one in given["prompt_embeds"].split(77, 1)[1:])
    assert torch.equal(
        given["negative_prompt_embeds"][:, :77], chinesekit.states(pipe, short)["prompt_embeds"]
    )


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_short_texts_in_pieces_draw_what_they_draw(family):
    pipe, said = pipeline(family), {"prompt": "a red house", "negative_prompt": "blurry"}
    given = apply(pipe, said, in_pieces(items(said)))
    assert given == said
    assert numpy.array_equal(call(pipe, given), call(pipe, said))
