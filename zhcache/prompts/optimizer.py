"""What a prompt leaves open, said in words of its style. Pure, deterministic; needs ``chinese``.

A style is what the prompt's words speak for most. Of each aspect that the style has words for and
the prompt does not speak of, one is added, until the encoder's tokens are used up. The prompt's own
words stay as they are and where they are, and what was optimized once is not changed again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from zhcache.chinese.detect import has_han
from zhcache.errors import UsageError
from zhcache.prompts.budget import Budget, Encoder, budget_for
from zhcache.prompts.lexicon import ENOUGH, GENERAL, Style, speech, styles
from zhcache.prompts.words import Words, traditional

MEDIUM = "medium"
_TAIL = re.compile(r"[\s，,、。.．；;：:！!？?…~～]*\Z")


class Optimized(str):
    """A prompt with what was added to it.

    Attributes:
        original: The prompt as it was given.
        style: Name of the style that it was taken to be of; ``general`` where it names none.
        added: What was added, in order.
        aspects: Each addition and the aspect that it is for.
        tokens: How many tokens it is now, as the budget counts them.
        budget: How many it may be. Less than ``tokens`` only where the original was too long.
    """

    original: str
    style: str
    added: tuple[str, ...]
    aspects: dict[str, str]
    tokens: int
    budget: int


def optimize(
    text: str,
    budget: int | None = None,
    encoder: Encoder | None = None,
    *,
    style: str | None = None,
) -> Optimized:
    """Returns a Chinese prompt with words for what it leaves open; one without Chinese as it is.

    Args:
        text: The prompt.
        budget: Most tokens of the result, start and end marks included; by default as many as the
            encoder takes.
        encoder: Whose tokens: ``bert`` (default) or ``clip`` by an estimate; exactly by a folder or
            a repository of the store with a tokenizer, a tokenizer, or a function from a text to a
            number of tokens.
        style: Name or title of the style; by default that which the prompt's words speak for.

    Raises:
        UsageError: Unknown style or encoder, a text that is none, or a package is not installed.
        NotFound: The encoder's repository is not in the store.
    """
    return optimize_within(text, budget_for(encoder, budget), style)


def optimize_within(text: str, budget: Budget, style: str | None = None) -> Optimized:
    """As ``optimize``, of a budget that serves for many prompts.

    Raises:
        UsageError: As ``optimize``.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError("a prompt is text, not {kind}", kind=type(text).__name__)
    words = Words(text)
    name = style_of(words) if style is None else style_named(style)
    place = _place(words)
    added: dict[str, str] = {}
    result = text
    if place is not None:
        for aspect, word in _missing(words, styles()[name]):
            longer = _put(words, place, [*added, word])
            # Not the next shorter one instead: what is optimized again must stop here, too.
            if not budget.allows(longer):
                break
            added[word], result = aspect, longer
    optimized = Optimized(result)
    optimized.original, optimized.style = str(text), name
    optimized.added, optimized.aspects = tuple(added), added
    optimized.tokens, optimized.budget = budget.tokens(result), budget.limit
    return optimized


def style_named(asked: str) -> str:
    """Returns the name of the style that is called so: by name, title, or a word that names it.

    Raises:
        UsageError: None is.
    """
    wanted = asked.strip().lower()
    for name, style in styles().items():
        if wanted in (name, style.title, *style.names):
            return name
    raise UsageError(
        "there is no style {style}",
        hint="one of: {styles}",
        style=repr(asked),
        styles=", ".join(f"{name} ({style.title})" for name, style in styles().items()),
    )


def style_of(words: Words) -> str:
    """Returns the style that a prompt's words speak for most; of equals, the one said first."""
    best, name = (ENOUGH - 1, 0), GENERAL
    for candidate, style in styles().items():
        found = {word: places for word, _ in style.evidence() if (places := [*words.wanted(word)])}
        weight = sum(weight for word, weight in style.evidence() if _is_whole(word, found))
        if (
            verdict := (weight, -min(map(min, found.values()), default=0))
        ) > best and weight >= ENOUGH:
            best, name = verdict, candidate
    return name


def _is_whole(word: str, found: Mapping[str, Sequence[int]]) -> bool:
    """Whether a word was found, somewhere not merely as part of a longer one that was."""
    longer = [
        (at, at + len(other)) for other in found if word in other != word for at in found[other]
    ]
    return any(
        not any(start <= at and at + len(word) <= end for start, end in longer)
        for at in found.get(word, ())
    )


def _missing(words: Words, style: Style) -> list[tuple[str, str]]:
    """Returns aspect and addition for each aspect of a style that a prompt says nothing of."""
    is_named = any(words.wants(name) is not None for name in style.names)
    shown = traditional if words.is_traditional else str
    missing: list[tuple[str, str]] = []
    for aspect in speech().aspects:
        if is_named if aspect.name == MEDIUM else words.speaks_of(aspect):
            continue
        wanted = (word for word in style.add.get(aspect.name, ()) if not words.refuses(word))
        if (word := next(wanted, None)) is not None:
            missing.append((aspect.name, shown(word)))
    return missing


def _place(words: Words) -> int | None:
    """Returns where additions go: before refusals at the end, so that they are not refused too.

    None where nothing may be added: the prompt has no Chinese, or only says what is not wanted.
    """
    if not has_han(words.text):
        return None
    clauses = [(start, end) for start, end in words.clauses if words.text[start:end].strip()]
    end = len(words.text)
    kept = len(clauses)
    while kept and words.refuses_until(clauses[kept - 1][1]) is not None:
        kept -= 1
    if kept:
        return end if kept == len(clauses) else clauses[kept][0]
    # In one clause "a cat, but no ..." still wants a cat.
    start, until = clauses[0]
    begins = words.refuses_until(until)
    return end if begins is not None and words.text[start:begins].strip() else None


def _put(words: Words, place: int, added: list[str]) -> str:
    head, rest = words.text[:place], words.text[place:]
    body = _TAIL.sub("", head)
    marks = head[len(body) :]
    return words.comma.join([body, *added]) + marks + rest
