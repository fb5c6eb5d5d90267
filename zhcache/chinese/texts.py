"""The texts of a pipeline call: which there are, and others put in their places. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zhcache.chinese.detect import language
from zhcache.errors import UsageError

_TEXT = re.compile(r"(negative_)?prompt(_\d)?")
NEGATIVE = "negative_"


@dataclass(frozen=True)
class Item:
    """What is said about one image, or several that differ in their seeds.

    Attributes:
        texts: By argument, ``prompt`` and ``prompt_2`` for instance.
        negatives: The same of what is not wanted, without ``negative_`` before the names; empty
            where nothing was said.
    """

    texts: Mapping[str, str]
    negatives: Mapping[str, str]


def is_text(name: str) -> bool:
    """Whether a call's argument of this name takes texts: ``negative_prompt_2`` for instance."""
    return _TEXT.fullmatch(name) is not None


def said(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields each text with its argument's name, in their order."""
    return ((name, text) for name, _, text in placed(arguments))


def placed(arguments: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """Yields each text with its argument's name and its place in the list that was given there."""
    for name, value in arguments.items():
        if is_text(name):
            for place, text in enumerate([value] if isinstance(value, str) else _many(value)):
                if isinstance(text, str):
                    yield name, place, text


def is_chinese(arguments: Mapping[str, Any]) -> bool:
    """Whether any of a call's texts is."""
    return any(language(text) == "chinese" for _, text in said(arguments))


def replaced(arguments: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """Returns the arguments with those of their texts that are ``known`` replaced."""

    def other(value: Any) -> Any:
        if isinstance(value, str):
            return known.get(value, value)
        if isinstance(value, (list, tuple)):
            return type(value)(other(one) for one in _many(value))
        return value

    return {name: other(value) if is_text(name) else value for name, value in arguments.items()}


def items(arguments: Mapping[str, Any]) -> list[Item]:
    """Returns what is said about each image.

    Raises:
        UsageError: ``prompt`` is no text, or lists of texts differ in their lengths.
    """
    listed: dict[str, list[str]] = {}
    first = arguments.get("prompt")
    if not isinstance(first, (str, list, tuple)):
        raise UsageError(
            "a Chinese text needs prompt= as a text or a list of texts, not {kind}",
            hint="give the texts, or chinese=None",
            kind=type(first).__name__,
        )
    count = 1 if isinstance(first, str) else len(first)
    for name, value in arguments.items():
        if not is_text(name) or value is None:
            continue
        texts = [value] * count if isinstance(value, str) else list(_many(value))
        if odd := [one for one in texts if not isinstance(one, str)]:
            raise UsageError(
                "{name} has a {kind} where a text is to be",
                hint="give the texts, or chinese=None",
                name=name,
                kind=type(odd[0]).__name__,
            )
        if len(texts) != count:
            raise UsageError(
                "{name} is not a text, nor a list of {count} as prompt is",
                hint="give one for all, or one for each",
                name=name,
                count=count,
            )
        listed[name] = texts
    positive = {name: texts for name, texts in listed.items() if not name.startswith(NEGATIVE)}
    negative = {
        name.removeprefix(NEGATIVE): texts
        for name, texts in listed.items()
        if name.startswith(NEGATIVE)
    }
    return [
        Item(
            {name: texts[place] for name, texts in positive.items()},
            {name: texts[place] for name, texts in negative.items()},
        )
        for place in range(count)
    ]


def one_text(texts: Mapping[str, str]) -> str:
    """Returns what all of an item's texts say, for an encoder that reads one.

    Raises:
        UsageError: They say different things.
    """
    distinct = list(dict.fromkeys(texts.values()))
    if len(distinct) > 1:
        raise UsageError(
            "{names} differ, and the Chinese encoder reads one text for all of them",
            hint="leave out all but prompt, or take chinese='translate'",
            names=", ".join(texts),
        )
    return distinct[0] if distinct else ""


def _many(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
