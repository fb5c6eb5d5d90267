"""Which way a denoiser is split over devices, and what is refused."""

import pytest

from zhcache.errors import UsageError
from zhcached.workers.parallel.ways import Denoiser, check_doubled, choose


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
    with pytest.raises(UsageError, match="over several devices") as told:
        choose(unet(pipeline), 2)
    assert "replicate" in told.value.hint
