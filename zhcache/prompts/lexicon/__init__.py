"""The lexicon: which words name a style, what each lacks, how prompts refuse. Data beside this."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator
from importlib.resources import files

import msgspec

GENERAL = "general"
"""The style of a prompt that names none."""

NAMED, KIND, HINT = 6, 3, 1
"""What one word weighs as evidence of a style."""

ENOUGH = KIND
"""What a style must weigh to be one: a name, a kind, or three hints."""


class Style(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One style. ``add`` is by aspect, each with its words in the order of preference."""

    title: str
    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    add: dict[str, tuple[str, ...]]

    def evidence(self) -> Iterator[tuple[str, int]]:
        """Yields each word that speaks for this style, and how much it weighs."""
        for words, weight in ((self.names, NAMED), (self.kinds, KIND), (self.hints, HINT)):
            for word in words:
                yield word, weight


class Aspect(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Something that a prompt may say or leave open, and the words by which it says it."""

    name: str
    words: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    but: frozenset[str] = msgspec.field(default=frozenset(), name="not")


class Speech(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How prompts speak, whatever their style."""

    apart: frozenset[str]
    refuse: frozenset[str]
    lack: frozenset[str]
    turn: frozenset[str]
    filler: frozenset[str]
    aspects: tuple[Aspect, ...] = msgspec.field(name="aspect")


def _read(name: str) -> object:
    return tomllib.loads((files(__name__) / name).read_text("utf-8"))


@functools.cache
def styles() -> dict[str, Style]:
    """Returns every style by its name, ``general`` last."""
    return msgspec.convert(_read("styles.toml"), dict[str, Style])


@functools.cache
def speech() -> Speech:
    """Returns how prompts speak."""
    return msgspec.convert(_read("words.toml"), Speech)


@functools.cache
def vocabulary() -> dict[str, tuple[str, ...]]:
    """Returns the words that prompts are generated of, by class."""
    return msgspec.convert(_read("vocabulary.toml"), dict[str, tuple[str, ...]])
