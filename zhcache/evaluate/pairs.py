"""Which picture of one set belongs to which of the other: by prompt and seed, or by name. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from zhcache.errors import UsageError
from zhcache.evaluate.measure import note
from zhcache.evaluate.pictures import Picture
from zhcache.i18n import mark
from zhcache.protocol.sources import Phrase

Key = Literal["prompt", "name"]

FEW_PROMPTS = 30
_NAMED = 5


@dataclass(frozen=True)
class Pair:
    """Two pictures that should be alike.

    Attributes:
        name: Of the first.
        one: The first.
        other: The second.
        prompt: What both were made of; None where it is not known or not the same.
        seed: The same.
    """

    name: str
    one: Picture
    other: Picture
    prompt: str | None
    seed: int | None


def paired(
    one: Sequence[Picture],
    other: Sequence[Picture],
    by: Key | None = None,
    names: tuple[str, str] = ("A", "B"),
) -> tuple[list[Pair], Key]:
    """Returns the pairs in the order of ``one``, and by what they were found.

    Args:
        one: The first set.
        other: The second.
        by: ``prompt``: prompt and seed; ``name``: the file's path without its suffix. None is
            ``prompt`` where each picture says both, else ``name``.
        names: What errors call the sets.

    Raises:
        UsageError: A picture has no counterpart, or two are the same by ``by``.
    """
    is_told = all(p.prompt is not None and p.seed is not None for p in (*one, *other))
    chosen: Key = by or ("prompt" if is_told else "name")
    if chosen == "prompt" and not is_told:
        silent = next(p for p in (*one, *other) if p.prompt is None or p.seed is None)
        raise UsageError(
            "{picture} does not say its prompt and seed, so it is not paired by them",
            hint="--pair-by name pairs by file name",
            picture=silent.shown,
        )
    key = _by_prompt if chosen == "prompt" else _by_name
    first, second = _keyed(one, key), _keyed(other, key)
    _check_counterparts(first, second, names)
    _check_counterparts(second, first, names[::-1])
    return [_pair(picture, second[at]) for at, picture in first.items()], chosen


def in_order(one: Sequence[Picture], other: Sequence[Picture]) -> list[Pair]:
    """Returns the pairs of two lists: the first with the first, and so on.

    Raises:
        UsageError: They differ in length.
    """
    if len(one) != len(other):
        raise UsageError(
            "{one} and {other} pictures do not make pairs",
            hint="lists are paired in their order, folders by prompt and seed, or by name",
            one=len(one),
            other=len(other),
        )
    return [_pair(a, b) for a, b in zip(one, other, strict=True)]


def with_prompts(pairs: Sequence[Pair], prompts: Mapping[str, str]) -> list[Pair]:
    """Returns the pairs with what ``prompts`` says of their names.

    Raises:
        UsageError: It does not say it of one.
    """
    for pair in pairs:
        if pair.name not in prompts:
            raise _untold(pair)
    return [replace(pair, prompt=prompts[pair.name]) for pair in pairs]


def texts(pairs: Sequence[Pair]) -> list[str]:
    """Returns the text that both pictures of each pair are judged on.

    Raises:
        UsageError: It is not known, or not the same for both.
    """
    for pair in pairs:
        if pair.prompt is None:
            raise _untold(pair)
    return [pair.prompt or "" for pair in pairs]


def design_notes(pairs: Sequence[Pair]) -> list[Phrase]:
    """Returns what keeps an interval over these pairs from saying much."""
    counts = Counter(pair.prompt for pair in pairs if pair.prompt is not None)
    if not counts or None in {pair.prompt for pair in pairs}:
        text = mark(
            "prompts are not known, so each pair counts as a prompt of its own: if some share one,"
            " intervals are too narrow"
        )
        return [note(text)]
    found: list[Phrase] = []
    if len(counts) < FEW_PROMPTS:
        text = mark(
            "{count} prompts are little evidence; 300 with 4 seeds each tell small differences"
        )
        found.append(note(text, count=len(counts)))
    if len(set(counts.values())) > 1:
        text = mark("prompts have between {least} and {most} pairs; each counts the same")
        found.append(note(text, least=min(counts.values()), most=max(counts.values())))
    return found


def _untold(pair: Pair) -> UsageError:
    return UsageError(
        "what {picture} is to show is not known",
        hint='--prompts FILE says it in JSON: {{"{name}": "..."}}; both pictures of a pair are'
        " judged on one text",
        picture=pair.one.shown,
        name=pair.name,
    )


def _by_prompt(picture: Picture) -> Hashable:
    return picture.prompt, picture.seed


def _by_name(picture: Picture) -> Hashable:
    return picture.name


def _keyed(
    pictures: Sequence[Picture], key: Callable[[Picture], Hashable]
) -> dict[Hashable, Picture]:
    found: dict[Hashable, Picture] = {}
    for picture in pictures:
        before = found.setdefault(key(picture), picture)
        if before is not picture:
            raise UsageError(
                "{one} and {other} cannot be told apart when pairs are made",
                hint="take one of them out, or change --pair-by",
                one=before.shown,
                other=picture.shown,
            )
    return found


def _check_counterparts(
    here: Mapping[Hashable, Picture],
    there: Mapping[Hashable, Picture],
    names: tuple[str, ...],
) -> None:
    lacking = [picture.shown for at, picture in here.items() if at not in there]
    if lacking:
        raise UsageError(
            "{count} of {total} pictures of {one} have no counterpart in {other}: {names}",
            hint="make them with the same prompts and seeds, pair them with --pair-by name, or"
            " compare sets instead: --metric cmmd",
            count=len(lacking),
            total=len(here),
            one=names[0],
            other=names[1],
            names=", ".join(lacking[:_NAMED]) + (", ..." if lacking[_NAMED:] else ""),
        )


def _pair(one: Picture, other: Picture) -> Pair:
    is_shared = other.prompt in (None, one.prompt) or one.prompt is None
    prompt = (one.prompt or other.prompt) if is_shared else None
    seed = one.seed if other.seed in (None, one.seed) else None
    return Pair(one.name, one, other, prompt, seed)
