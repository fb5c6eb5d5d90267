"""The reader: right on the generator's own drawings, silent where nothing clear is there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from scenes.reader import Reading, read
from scenes.world import ATTRIBUTES, BACKGROUNDS, COLOURS, SIDE, Scene, draw, scenes

PLAIN = Scene("star", "red", "white", "left", "large", 2)


def _drawn(count: int, seed: int, blur: float = 0.0, noise: float = 0.0):
    rng = np.random.default_rng(seed)
    for number in rng.permutation(len(scenes()))[:count]:
        scene = scenes()[number]
        image = draw(scene, rng)
        if blur:
            image = image.filter(ImageFilter.GaussianBlur(blur))
        spoilt = np.asarray(image) + rng.normal(0, noise, (SIDE, SIDE, 3))
        yield scene, Image.fromarray(spoilt.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("blur", "noise"), [(0.0, 0.0), (0.6, 5.0)])
def test_drawings_are_read_right(blur, noise):
    drawn = list(_drawn(240, 1, blur, noise))
    right = [read(image).agreement(scene) for scene, image in drawn]
    for name in ATTRIBUTES:
        assert sum(one[name] for one in right) >= 0.99 * len(right), name


@pytest.mark.slow
def test_thousands_of_drawings_are_read_right():
    right = [read(image).agreement(scene) for scene, image in _drawn(3000, 2)]
    for name in ATTRIBUTES:
        assert sum(one[name] for one in right) >= 0.998 * len(right), name


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_of_an_empty_picture_only_the_background_is_told(background):
    image = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS[background])
    assert read(image) == Reading(background=background)


def test_noise_and_a_photo_like_gradient_show_nothing():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    ramp = np.linspace(0, 255, SIDE)[:, None, None].repeat(SIDE, 1).repeat(3, 2)
    for image in (noise, Image.fromarray(ramp.astype(np.uint8))):
        told = read(image)
        assert (told.shape, told.size, told.count) == (None, None, None)


def test_a_speck_is_no_shape():
    image = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS["grey"])
    ImageDraw.Draw(image).rectangle((10, 10, 12, 12), fill=COLOURS["red"])
    assert read(image).count is None


def test_a_shape_of_no_known_outline_is_unclear():
    image = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS["white"])
    pen = ImageDraw.Draw(image)
    pen.ellipse((22, 22, 42, 42), fill=COLOURS["blue"])
    pen.ellipse((26, 26, 38, 38), fill=BACKGROUNDS["white"])
    told = read(image)
    assert told.shape is None
    assert (told.colour, told.place, told.count) == ("blue", "centre", 1)


def test_a_shape_between_small_and_large_has_no_size():
    image = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS["white"])
    ImageDraw.Draw(image).ellipse((24.4, 24.4, 39.6, 39.6), fill=COLOURS["blue"])
    assert read(image) == Reading("circle", "blue", "white", "centre", None, 1)


def test_a_colour_of_no_name_is_unclear():
    image = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS["white"])
    ImageDraw.Draw(image).rectangle((22, 22, 41, 41), fill=(0, 255, 255))
    told = read(image)
    assert (told.shape, told.colour) == ("square", None)


def test_four_shapes_are_not_counted():
    image = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS["white"])
    for x in (8, 22, 36, 50):
        ImageDraw.Draw(image).rectangle((x, 28, x + 8, 36), fill=COLOURS["black"])
    assert read(image).count is None


def test_every_attribute_is_read_and_not_guessed_from_the_others():
    rng = np.random.default_rng(3)
    changed = (
        PLAIN,
        replace(PLAIN, shape="cross"),
        replace(PLAIN, colour="purple"),
        replace(PLAIN, background="pink"),
        replace(PLAIN, place="bottom"),
        replace(PLAIN, size="small"),
        replace(PLAIN, count=3),
    )
    for scene in changed:
        told = read(draw(scene, rng))
        assert told.share(scene) == 1
        assert sum(told.agreement(PLAIN).values()) == (6 if scene == PLAIN else 5)


def test_larger_pictures_are_read_as_well():
    large = draw(PLAIN, np.random.default_rng(0)).resize((256, 256), Image.Resampling.BICUBIC)
    assert read(large).share(PLAIN) == 1
