"""Captions: each Chinese one has exactly one English counterpart, and says its scene."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scenes import captions
from scenes.world import held_out, seen

FULL, HALF = "\uff0c", ","


def _many(count: int = 8000) -> list[captions.Caption]:
    return list(captions.pairs(count, seed=3))


def test_chinese_and_english_say_each_other():
    forth: dict[str, str] = {}
    back: dict[str, str] = {}
    for one in _many():
        chinese = one.zh.replace(FULL, HALF)
        assert forth.setdefault(one.en, chinese) == chinese
        assert back.setdefault(chinese, one.en) == one.en


def test_every_word_and_template_has_one_counterpart():
    shapes = [forms for each in captions._SHAPES.values() for forms in each]
    for form in range(3):
        assert len({forms[form] for forms in shapes}) == len(shapes)
    for words in [captions.TEMPLATES, *map(_pairs, captions._WORDS.values())]:
        for language in (0, 1):
            assert len({one[language] for one in words}) == len(words)


def _pairs(words):
    return [one for each in words.values() for one in each]


def test_a_caption_says_one_scene_only():
    said: dict[str, object] = {}
    for one in _many():
        assert said.setdefault(one.en, one.scene) == one.scene


def test_every_word_and_every_template_is_used():
    texts = [one.en for one in _many(3000)]
    words = {word.strip(",") for text in texts for word in text.split()}
    assert set(captions.vocabulary()) == {part for word in words for part in word.split("-")}
    assert len(captions.TEMPLATES) >= 6
    assert all("{" not in text for text in texts)


def test_both_commas_are_typed():
    texts = [one.zh for one in _many(500)]
    assert any(FULL in text for text in texts)
    assert any(HALF in text for text in texts)
    assert not any(FULL in text and HALF in text for text in texts)


def test_training_never_hears_what_is_kept_for_evaluation():
    kept = {one.scene for one in captions.evaluation()}
    assert len(captions.evaluation()) == len(kept) == captions.EVALUATED
    assert kept <= set(held_out())
    assert {one.scene for one in _many()} <= set(seen())
    assert {one.en for one in _many()}.isdisjoint(one.en for one in captions.evaluation())


def test_captions_repeat_with_their_seed():
    assert list(captions.pairs(50, 1)) == list(captions.pairs(50, 1))
    assert list(captions.pairs(50, 1)) != list(captions.pairs(50, 2))


def test_traditional_characters_replace_all_that_differ():
    simplified = set("圆盘块个对边侧间红黄绿蓝罗兰两画鲜宝浅号柠")
    used = set("".join(one.zh for one in _many(3000)))
    assert simplified <= used
    for one in _many(500):
        told = captions.traditional(one.zh)
        assert len(told) == len(one.zh)
        assert not simplified & set(told)


@pytest.mark.parametrize("seed", range(4))
def test_mixed_captions_have_both_languages(seed):
    rng = np.random.default_rng(seed)
    said = captions.mixed(seen()[seed * 1000], rng)
    assert any("a" <= letter <= "z" for letter in said)
    assert any("\u4e00" <= letter <= "\u9fff" for letter in said)


def test_command_writes_a_parallel_file():
    examples = Path(captions.__file__).parents[1]
    command = [sys.executable, "-m", "scenes.captions"]
    for options, wanted in (
        (["--pairs", "20", "--seed", "7"], list(captions.pairs(20, 7))),
        (["--held-out"], list(captions.evaluation())),
    ):
        done = subprocess.run(
            [*command, *options], cwd=examples, capture_output=True, check=True, timeout=60
        )
        lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
        assert lines == [{"en": one.en, "zh": one.zh} for one in wanted]
