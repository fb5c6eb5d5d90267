"""The scenes: all of them, the split, and what a drawing must and may not depend on."""

from __future__ import annotations

import hashlib
from dataclasses import astuple

import numpy as np
import pytest

from scenes.world import (
    ATTRIBUTES,
    PLACES,
    SIDE,
    VOCABULARY,
    draw,
    held_out,
    scenes,
    seen,
)


def test_every_combination_is_there_once():
    wanted = 1
    for values in VOCABULARY.values():
        wanted *= len(values)
    assert len(set(scenes())) == len(scenes()) == wanted


def test_split_parts_the_scenes_and_leaves_enough_on_both_sides():
    assert set(held_out()) | set(seen()) == set(scenes())
    assert not set(held_out()) & set(seen())
    assert 300 <= len(held_out()) <= len(scenes()) // 10


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_split_shows_training_every_value_and_every_pair_of_values(name):
    for other in ATTRIBUTES:
        pairs = {(getattr(one, name), getattr(one, other)) for one in scenes()}
        assert {(getattr(one, name), getattr(one, other)) for one in seen()} == pairs


def test_split_is_the_one_that_the_model_was_trained_with():
    told = "\n".join(str(astuple(one)) for one in held_out())
    assert hashlib.sha256(told.encode()).hexdigest()[:12] == "3f8caddeea1f"


def test_drawing_repeats_with_its_seed_and_differs_with_another():
    scene = scenes()[1234]
    once, again, other = (
        np.asarray(draw(scene, np.random.default_rng(seed))) for seed in (5, 5, 6)
    )
    assert once.shape == (SIDE, SIDE, 3)
    assert (once == again).all()
    assert (once != other).any()


def test_shapes_stay_inside_and_apart():
    rng = np.random.default_rng(0)
    for scene in rng.permutation(np.array(scenes(), dtype=object))[:300]:
        pixels = np.asarray(draw(scene, rng)).astype(int)
        ground = pixels[0, 0]
        away = np.abs(pixels - ground).sum(2)
        inked = away > away.max() / 2
        rim = np.ones_like(inked)
        rim[1:-1, 1:-1] = False
        assert not (inked & rim).any(), scene
        # Shapes stand in a row along one axis: empty lines part them.
        along = inked.any(1) if scene.place in {"left", "right"} else inked.any(0)
        starts = np.diff(np.concatenate([[0], along.astype(int)])) == 1
        assert starts.sum() == scene.count, scene


def test_places_are_apart_by_more_than_the_jitter():
    points = np.array(list(PLACES.values()))
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert apart[~np.eye(len(points), dtype=bool)].min() > 15
