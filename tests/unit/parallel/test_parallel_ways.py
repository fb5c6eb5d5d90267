"""Which way a denoiser is split over devices, and what is refused."""

import pytest

from zhcache.errors import UsageError
from zhcache.placement.cuts import (
    Cut,
    Denoiser,
    check_doubled,
    check_masked,
    choose,
)


def planned(heads=None):
    return Denoiser("FluxTransformer2DModel", "FluxPipeline", has_plan=True, heads=heads)


def unet(pipeline="StableDiffusionXLPipeline"):
    return Denoiser("UNet2DConditionModel", pipeline, has_plan=False, heads=8)


@pytest.mark.parametrize(
    ("heads", "count", "attention", "name", "is_padded"),
    [
        (24, 2, None, "ulysses", False),
        (24, 4, "_native_cudnn", "ulysses", False),
        (24, 5, "_native_cudnn", "ring", False),
        (24, 5, "native", "ulysses", True),
        (24, 5, None, "ulysses", True),
        (None, 2, None, "ulysses", True),
    ],
)
def test_plan_is_taken_by_heads_and_backend(heads, count, attention, name, is_padded):
    way = choose(planned(heads), count, attention)
    assert (way.name, way.is_padded) == (name, is_padded)


@pytest.mark.parametrize(("heads", "count"), [(24, 7), (24, 9), (2, 3), (40, 16)])
def test_heads_that_leave_a_device_without_any_are_refused_with_numbers_that_work(heads, count):
    with pytest.raises(UsageError, match=f"{heads} heads .* by {count} devices") as told:
        choose(planned(heads), count)
    named = [int(one) for one in told.value.hint.removesuffix(" devices").split()[1::2]]
    assert named
    assert all(choose(planned(heads), one).name == "ulysses" for one in named)


def test_reason_names_what_was_decided_by():
    assert "24 heads" in choose(planned(24), 2).why
    assert "UNet2DConditionModel" in choose(unet(), 2).why


def test_unet_is_split_by_guidance():
    assert choose(unet(), 2).name == "cfg"


def test_guidance_is_split_over_two_devices_only():
    with pytest.raises(UsageError, match="over 2 devices, not 3") as told:
        choose(unet(), 3)
    assert "two devices" in told.value.hint


@pytest.mark.parametrize(
    "pipeline",
    [
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusion3Pipeline",
        "PixArtSigmaPipeline",
        "KolorsImg2ImgPipeline",
    ],
)
def test_pipelines_that_double_their_batch_are_known(pipeline):
    check_doubled(pipeline)


@pytest.mark.parametrize(
    "pipeline",
    [
        "StableDiffusionSAGPipeline",
        "StableDiffusionXLPAGPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "Lumina2Pipeline",
        "",
    ],
)
def test_pipeline_that_looks_across_its_batch_or_is_unknown_is_refused(pipeline):
    with pytest.raises(UsageError, match="cannot be shared") as told:
        choose(unet(pipeline), 2)
    assert "replicate" in told.value.hint


@pytest.mark.parametrize(
    ("way", "count", "lengths", "is_right"),
    [
        ("ulysses", 2, [7, 64], True),
        ("ulysses", 3, [6, 9], True),
        # 3, 3 and 2: what the last one is padded by is cut off.
        ("ulysses", 3, [8, 9], True),
        ("ulysses", 3, [7, 9], False),
        ("ulysses", 4, [8, 9], False),
        ("ring", 2, [8, 64], False),
    ],
)
def test_mask_is_taken_where_only_the_last_part_is_shorter(way, count, lengths, is_right):
    if is_right:
        check_masked("X", Cut(way, ""), count, lengths)
        return
    with pytest.raises(UsageError, match="masks a part") as told:
        check_masked("X", Cut(way, ""), count, lengths)
    assert "seed for each image" in told.value.hint
