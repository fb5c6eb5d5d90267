"""Distances between two images, against what their definitions give by hand."""

import math

import pytest
import torch

from zhcache.errors import UsageError
from zhcache.evaluate import paired


@pytest.fixture
def image():
    return torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0)).double() * 255


def test_pixels_are_the_images_own():
    from PIL import Image

    drawn = Image.new("RGB", (3, 2), (10, 20, 30))
    drawn.putpixel((2, 1), (255, 0, 7))
    found = paired.pixels(drawn)
    assert found.shape == (3, 2, 3)
    assert found[:, 1, 2].tolist() == [255, 0, 7]
    assert found[:, 0, 0].tolist() == [10, 20, 30]


def test_equal_images(image):
    assert paired.psnr(image, image) == math.inf
    assert paired.ssim(image, image) == pytest.approx(1)
    assert paired.cosine(image, image) == pytest.approx(1)


def test_psnr_of_a_known_error(image):
    assert paired.psnr(image, image + 2.55) == pytest.approx(40)


def test_ssim_is_that_of_each_window_by_its_definition(image):
    other = (image * 0.7 + 20).roll(1, -1)
    weights = [math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)]
    total = sum(weights)
    window = torch.tensor([[a * b / total**2 for b in weights] for a in weights]).double()
    found = []
    for channel in range(3):
        for y in range(24 - 10):
            for x in range(32 - 10):
                a = image[channel, y : y + 11, x : x + 11]
                b = other[channel, y : y + 11, x : x + 11]
                ma, mb = (window * a).sum(), (window * b).sum()
                va = (window * (a - ma) ** 2).sum()
                vb = (window * (b - mb) ** 2).sum()
                ab = (window * (a - ma) * (b - mb)).sum()
                c1, c2 = 2.55**2, 7.65**2
                found.append(
                    ((2 * ma * mb + c1) * (2 * ab + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
                )
    assert paired.ssim(image, other) == pytest.approx(float(sum(found) / len(found)))


def test_ssim_of_one_window_and_of_a_picture_of_one_colour():
    black, white = torch.zeros(3, 11, 11).double(), torch.full((3, 11, 11), 255.0).double()
    # Without any spread only the means count: C1 / (255² + C1).
    assert paired.ssim(black, white) == pytest.approx(2.55**2 / (255**2 + 2.55**2))
    assert paired.ssim(white, white) == pytest.approx(1)
    one_is_off = torch.stack([black[0], black[0], white[0]])
    expected = (2 + 2.55**2 / (255**2 + 2.55**2)) / 3
    assert paired.ssim(black, one_is_off) == pytest.approx(expected)


def test_cosine():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    assert paired.cosine(one, other) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(paired.cosine(one, torch.zeros(2)))


@pytest.mark.parametrize("measure", [paired.psnr, paired.ssim, paired.cosine])
def test_images_of_different_shapes_are_refused(measure, image):
    with pytest.raises(UsageError, match="different shapes"):
        measure(image, image[:, :, 1:])


def test_images_smaller_than_a_window_are_refused():
    with pytest.raises(UsageError, match="too small"):
        paired.ssim(torch.zeros(3, 10, 20), torch.zeros(3, 10, 20))
