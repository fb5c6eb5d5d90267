"""Pictures of a pipeline and of its variant, made by stock diffusers, compared."""

from dataclasses import replace

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from harness import families
from zhcache.errors import UsageError
from zhcache.evaluate import variants

PLAN = variants.Plan(prompts=("ab", "cd"), seeds=(3, 4), steps=2, size=(32, 32))


def loaded(name="sd15", dtype=torch.float32):
    return DiffusionPipeline.from_pretrained(families.folder(name), dtype=dtype)


@pytest.fixture(scope="module")
def source():
    return variants.draw(loaded(), PLAN)


def test_every_prompt_meets_every_seed(source):
    assert len(source.images) == len(source.latents) == len(source.seconds) == 4
    assert len({image.tobytes() for image in source.images}) == 4


def test_a_pipeline_equals_itself(source):
    found = variants.compare(source, variants.draw(loaded(), PLAN))
    assert (found.pairs, found.psnr, found.psnr_least) == (4, None, None)
    assert found.ssim_least == pytest.approx(1)
    assert found.latent_cosine_least == pytest.approx(1)


def test_half_precision_is_near_and_another_model_is_far(source):
    half = variants.compare(source, variants.draw(loaded(dtype=torch.bfloat16), PLAN))
    assert half.psnr_least is not None
    assert half.psnr_least > 20
    other = loaded()
    with torch.no_grad():
        for weight in other.unet.parameters():
            weight.mul_(-1)
    far = variants.compare(source, variants.draw(other, PLAN))
    assert far.psnr is not None
    assert far.psnr < half.psnr_least
    assert (far.latent_cosine or 0) < (half.latent_cosine or 0)


def test_latents_of_nan_are_like_nothing(source):
    spoilt = [source.latents[0] * float("nan"), *source.latents[1:]]
    found = variants.compare(source, replace(source, latents=spoilt))
    assert found.latent_cosine == pytest.approx(1)
    assert found.latent_cosine_least == 0


def test_a_row_for_each_pair_and_a_column_for_each_pipeline(source):
    sheet = variants.sheet(source, {"fp16": source}, width=32)
    assert sheet.size == (64, 16 + 4 * 32)
    left, right = sheet.crop((0, 16, 32, 144)), sheet.crop((32, 16, 64, 144))
    assert left.tobytes() == right.tobytes()


def test_what_takes_no_prompt_is_refused():
    class Pipeline:
        def __call__(self, image):
            raise AssertionError

    with pytest.raises(UsageError, match="takes no prompt"):
        variants.draw(Pipeline(), PLAN)
