"""Captions of scenes in English and Chinese, word for word each other's translation.

Templates and synonyms come in pairs, so that a Chinese caption has exactly one English counterpart,
as in a parallel file that somebody translated. ``python -m scenes.captions --pairs 20000`` writes
such a file, ``--held-out`` the pairs that are kept for evaluation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from scenes.world import Scene, held_out, seen

Words = tuple[str, str]
"""English and Chinese."""

EVALUATED: Final = 300
_EVALUATION_SEED: Final = 300

TEMPLATES: Final[tuple[Words, ...]] = (
    (
        "{count} {size} {colour} {shape} {place}, {background} background",
        "{place}有{count}{colour}的{size}{shape},{background}背景",
    ),
    (
        "a picture of {count} {size} {colour} {shape} {place} on a {background} background",
        "一幅画,{background}背景上,{place}有{count}{size}{colour}{shape}",
    ),
    (
        "on a {background} background, {count} {size} {colour} {shape} {place}",
        "在{background}背景的{place},有{count}{size}的{colour}{shape}",
    ),
    (
        "a {background} background with {count} {size} {colour} {shape} {place}",
        "{background}的背景,{place}是{count}{colour}{size}{shape}",
    ),
    (
        "{count} {shape}, {colour}, {size}, {place}, {background} background",
        "{count}{shape},{colour},{size},{place},{background}背景",
    ),
    (
        "draw {count} {size} {colour} {shape} {place} against {background}",
        "画{count}{size}的{colour}{shape},放在{place},底色是{background}",
    ),
)
# Every value's words, each with a synonym or two. Of shapes: one, several, Chinese.
_SHAPES: Final[dict[str, tuple[tuple[str, str, str], ...]]] = {
    "circle": (("circle", "circles", "圆形"), ("disc", "discs", "圆盘")),
    "square": (("square", "squares", "正方形"), ("box", "boxes", "方块")),
    "triangle": (("triangle", "triangles", "三角形"), ("wedge", "wedges", "三角")),
    "star": (("star", "stars", "星形"), ("five-pointed star", "five-pointed stars", "五角星")),
    "cross": (("cross", "crosses", "十字"), ("plus sign", "plus signs", "加号")),
}
_WORDS: Final[dict[str, dict[str | int, tuple[Words, ...]]]] = {
    "colour": {
        "red": (("red", "红色"), ("scarlet", "鲜红色")),
        "orange": (("orange", "橙色"), ("tangerine", "橘色")),
        "yellow": (("yellow", "黄色"), ("lemon yellow", "柠檬黄")),
        "green": (("green", "绿色"), ("grass green", "草绿色")),
        "blue": (("blue", "蓝色"), ("royal blue", "宝蓝色")),
        "purple": (("purple", "紫色"), ("violet", "紫罗兰色")),
        "brown": (("brown", "棕色"), ("coffee", "咖啡色")),
        "black": (("black", "黑色"), ("ink black", "墨黑色")),
    },
    "background": {
        "white": (("white", "白色"), ("snow white", "雪白色")),
        "grey": (("grey", "灰色"),),
        "pink": (("pink", "粉色"), ("rose pink", "粉红色")),
        "beige": (("beige", "米色"), ("cream", "奶油色")),
        "light blue": (("light blue", "浅蓝色"), ("sky blue", "天蓝色")),
        "light green": (("light green", "浅绿色"), ("mint green", "薄荷绿")),
    },
    "place": {
        "left": (("on the left", "左边"), ("on the left side", "左侧")),
        "right": (("on the right", "右边"), ("on the right side", "右侧")),
        "top": (("at the top", "上方"), ("in the upper part", "上部")),
        "bottom": (("at the bottom", "下方"), ("in the lower part", "下部")),
        "centre": (("in the centre", "中间"), ("in the middle", "中央")),
    },
    "size": {
        "small": (("small", "小"), ("little", "小小")),
        "large": (("large", "大"), ("big", "大大")),
    },
    "count": {
        1: (("a", "一个"), ("one", "1个")),
        2: (("two", "两个"), ("a pair of", "一对")),
        3: (("three", "三个"), ("a row of three", "一排三个")),
    },
}
_TRADITIONAL: Final = str.maketrans(
    "圆盘块个对边侧间红黄绿蓝罗兰两画鲜宝浅号柠",
    "圓盤塊個對邊側間紅黃綠藍羅蘭兩畫鮮寶淺號檸",
)
_FULL_WIDTH: Final = str.maketrans(",", "\uff0c")


@dataclass(frozen=True, slots=True)
class Caption:
    """A scene in both languages."""

    scene: Scene
    en: str
    zh: str


def caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """One of the scene's captions: a template, and for each attribute one of its words."""
    english, chinese = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    said = _said(scene, rng)
    return Caption(
        scene,
        english.format_map({name: words[0] for name, words in said.items()}),
        # Chinese prompts are typed with either comma.
        chinese.format_map({name: words[1] for name, words in said.items()}).translate(
            _FULL_WIDTH if rng.random() < 0.5 else {}
        ),
    )


def mixed(scene: Scene, rng: np.random.Generator) -> str:
    """A Chinese caption in which the colour or the shape is said in English, as people do."""
    _, chinese = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    said, english = _said(scene, rng), ("colour", "shape")[int(rng.integers(2))]
    words = {name: both[1] for name, both in said.items()} | {english: f" {said[english][0]} "}
    return chinese.format_map(words).translate(_FULL_WIDTH).strip()


def pairs(count: int, seed: int) -> Iterator[Caption]:
    """Yields captions of scenes that training may show."""
    rng = np.random.default_rng(seed)
    known = seen()
    for _ in range(count):
        yield caption(known[int(rng.integers(len(known)))], rng)


@cache
def evaluation() -> tuple[Caption, ...]:
    """The captions for evaluation, of scenes that no training shows."""
    rng = np.random.default_rng(_EVALUATION_SEED)
    kept = held_out()
    order = rng.permutation(len(kept))
    return tuple(caption(kept[int(order[n % len(kept)])], rng) for n in range(EVALUATED))


def traditional(chinese: str) -> str:
    """A Chinese caption in traditional characters."""
    return chinese.translate(_TRADITIONAL)


def vocabulary() -> tuple[str, ...]:
    """Every English word that a caption may have, for a tokenizer."""
    texts = [english for english, _ in TEMPLATES]
    texts += [form for forms in _SHAPES.values() for one in forms for form in one[:2]]
    texts += [en for words in _WORDS.values() for each in words.values() for en, _ in each]
    words = {word.strip(",") for text in texts for word in text.split() if "{" not in word}
    return tuple(sorted(part for word in words for part in word.split("-")))


def _said(scene: Scene, rng: np.random.Generator) -> dict[str, Words]:
    """For each attribute the words that are said."""
    said: dict[str, Words] = {
        name: _chosen(words[getattr(scene, name)], rng) for name, words in _WORDS.items()
    }
    one, several, shape = _SHAPES[scene.shape][int(rng.integers(len(_SHAPES[scene.shape])))]
    said["shape"] = (one if scene.count == 1 else several, shape)
    return said


def _chosen(words: tuple[Words, ...], rng: np.random.Generator) -> Words:
    return words[int(rng.integers(len(words)))]


def main() -> None:
    """Writes a parallel caption file to stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="the pairs for evaluation instead")
    options = parser.parse_args()
    told = evaluation() if options.held_out else pairs(options.pairs, options.seed)
    for one in told:
        sys.stdout.write(json.dumps({"en": one.en, "zh": one.zh}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
