"""Prompts made of words: every combination once, in an order that a seed chooses, then again."""

from __future__ import annotations

import math
import secrets
import sys
from collections.abc import Iterator, Mapping
from itertools import count as counting
from itertools import islice

from zhcache.errors import UsageError
from zhcache.prompts.shuffle import Shuffle
from zhcache.prompts.vocabulary import Vocabulary, vocabulary_of

CLASSES = ("subjects", "adjectives", "environments", "lighting", "styles", "compositions")
"""The classes of words in the order in which they come in: so many as there are elements."""

_SEEDS = 2**32
_UNDER = "光阳霞灯烛月色"
"""Light that falls on things, which are under it (晨光下); in all else they are (夜景中)."""
_PLACED = ("下", "中", "里", "时", "上", "后", "前", "间")
_WEATHER = "天"
"""A day is lived in: 雾天里."""
_STYLED = ("风格", "风")


class Draws:
    """Combinations of words, each as a mapping from the class to its word.

    Args:
        elements: How many words, 1 to 6.
        seed: Chooses the order; the same one gives the same prompts on every machine.
        vocabulary: Words by class or a file of them, in place of the built-in ones.

    Raises:
        UsageError: Too few or many elements, or a vocabulary that is none.
        NotFound: There is no such file.
    """

    def __init__(
        self, elements: int = 3, seed: int | None = None, vocabulary: Vocabulary | None = None
    ) -> None:
        if not 1 <= elements <= len(CLASSES):
            raise UsageError(
                "{elements} elements are not possible",
                hint="1 to {most}",
                elements=elements,
                most=len(CLASSES),
            )
        words = vocabulary_of(vocabulary)
        self.seed = secrets.randbelow(_SEEDS) if seed is None else seed
        self._words = {name: words[name] for name in CLASSES[:elements]}
        self.combinations = math.prod(map(len, self._words.values()))

    def __iter__(self) -> Iterator[dict[str, str]]:
        """Yields them without an end: all once, then all once in another order, and so on."""
        for turn in counting():
            order = Shuffle(self.combinations, f"{self.seed} {turn}")
            for place in range(self.combinations):
                yield self._at(order[place])

    def _at(self, number: int) -> dict[str, str]:
        drawn: dict[str, str] = {}
        for name, words in self._words.items():
            number, index = divmod(number, len(words))
            drawn[name] = words[index]
        return drawn


def phrase(drawn: Mapping[str, str]) -> str:
    """Returns the prompt of a combination, such as 宁静的猫在湖畔，晨光下，水墨画风格，全景."""
    scene = drawn.get("adjectives", "") + drawn["subjects"]
    if place := drawn.get("environments"):
        scene += place if place.startswith("在") else f"在{place}"
    parts = [scene]
    if light := drawn.get("lighting"):
        parts.append(light + _particle(light))
    if style := drawn.get("styles"):
        parts.append(style if style.endswith(_STYLED) else f"{style}风格")
    if view := drawn.get("compositions"):
        parts.append(view)
    return "，".join(parts)


def _particle(light: str) -> str:
    if light.endswith(_PLACED):
        return ""
    return "里" if light.endswith(_WEATHER) else "下" if light[-1] in _UNDER else "中"


def generate(
    count: int | None,
    elements: int = 3,
    seed: int | None = None,
    *,
    vocabulary: Vocabulary | None = None,
) -> Iterator[str]:
    """Returns an iterator over generated prompts.

    No combination comes twice before all have come; after that they come in another order. Nothing
    is kept of those that have come, whatever the count.

    Args:
        count: How many; None never ends.
        elements: Words in each, 1 to 6: subject, adjective, place, light, style, composition.
        seed: Chooses which ones and their order; a random one by default.
        vocabulary: Words by class, or a JSON or TOML file of them; classes that it lacks are the
            built-in ones.

    Raises:
        UsageError: A count or number of elements that cannot be, or a vocabulary that is none.
        NotFound: There is no such file.
    """
    if count is not None and not 0 <= count <= sys.maxsize:
        raise UsageError("{count} prompts cannot be made", count=count)
    return map(phrase, islice(Draws(elements, seed, vocabulary), count))
