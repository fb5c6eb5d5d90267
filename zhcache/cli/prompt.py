"""``zhcache prompt``: what Chinese prompts leave open is added, and new ones are made."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import click
import msgspec

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.lines import STDIN, Lines, lines_of
from zhcache.cli.report import json_line
from zhcache.errors import UsageError
from zhcache.i18n import mark, translate

if TYPE_CHECKING:
    from zhcache.prompts import Optimized


class Added(msgspec.Struct, kw_only=True):
    """One addition and what it is for."""

    word: str
    aspect: str


class OptimizedPrompt(msgspec.Struct, kw_only=True):
    """What ``prompt optimize --json`` prints for each prompt."""

    prompt: str
    original: str
    style: str
    added: list[Added]
    tokens: int
    budget: int
    schema: int = 1


class GeneratedPrompt(msgspec.Struct, kw_only=True):
    """What ``prompt generate --json`` prints for each prompt. ``words`` by their class."""

    prompt: str
    words: dict[str, str]
    seed: int
    schema: int = 1


class Written(msgspec.Struct, kw_only=True):
    """What is printed where the prompts went into a file."""

    path: str
    prompts: int
    schema: int = 1


class _Group(click.Group, Command):
    pass


@click.group("prompt", cls=_Group, help=mark("Improve Chinese prompts, or make new ones."))
def command() -> None:
    """Groups the two."""


@command.command(
    "optimize",
    cls=Command,
    help=mark(
        "Add to Chinese prompts what they do not mention, in words of their style.\n\nEach TEXT"
        " is a prompt; - stands for the lines of stdin. Nothing of a prompt is removed or "
        "moved."
    ),
)
@click.argument("texts", metavar="[TEXT...|-]", nargs=-1)
@click.option(
    "--input", "source", cls=Option, metavar="FILE", help=mark("File of prompts, one per line.")
)
@click.option(
    "--output", "target", cls=Option, metavar="FILE", help=mark("Write the prompts there.")
)
@click.option(
    "--style", cls=Option, metavar="S", help=mark("Use this style, whatever the prompt says.")
)
@click.option(
    "--budget",
    cls=Option,
    type=click.IntRange(1),
    metavar="N",
    help=mark("The most tokens that a prompt may have."),
)
@click.option(
    "--encoder",
    cls=Option,
    metavar="E",
    help=mark(
        "Encoder whose tokens count: bert, clip, a folder with a tokenizer, or "
        "OWNER/NAME in the store."
    ),
)
@output_options
@pass_session
def optimize(
    session: Session,
    *,
    texts: Sequence[str],
    source: str | None,
    target: str | None,
    style: str | None,
    budget: int | None,
    encoder: str | None,
    output: Output,
) -> None:
    """Adds to each prompt in turn."""
    if not texts and source is None:
        raise UsageError(
            "there is no prompt", hint="zhcache prompt optimize TEXT, or --input FILE, or -"
        )
    from zhcache.prompts.budget import budget_for
    from zhcache.prompts.optimizer import optimize_within

    within = budget_for(encoder, budget, session.client if encoder else None)
    count = 0
    with Lines(target) as lines:
        for text in _prompts(texts, source):
            optimized = optimize_within(text, within, style)
            lines.write(json_line(_told(optimized)) if output.is_json else optimized)
            if source is None and not output.is_json:
                _explain(optimized, output)
            count += 1
    _finish(lines, count, output)


def _prompts(texts: Sequence[str], source: str | None) -> Iterator[str]:
    for text in texts:
        if text == STDIN:
            yield from lines_of(STDIN)
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                "the prompt {prompt} is not text in UTF-8", prompt=ascii(text)
            ) from error
        yield text
    if source is not None:
        yield from lines_of(source)


def _told(optimized: Optimized) -> OptimizedPrompt:
    return OptimizedPrompt(
        prompt=str(optimized),
        original=optimized.original,
        style=optimized.style,
        added=[Added(word=word, aspect=aspect) for word, aspect in optimized.aspects.items()],
        tokens=optimized.tokens,
        budget=optimized.budget,
    )


def _explain(optimized: Optimized, output: Output) -> None:
    """Says on stderr what was added, or that there was no room."""
    from zhcache.prompts.lexicon import styles

    if optimized.tokens > optimized.budget:
        output.say(
            mark("the prompt is {tokens} tokens already, of {budget} that are read"),
            tokens=optimized.tokens,
            budget=optimized.budget,
        )
    elif optimized.added:
        output.say(
            mark("added for {style}: {words}; {tokens} of {budget} tokens"),
            style=styles()[optimized.style].title,
            words="、".join(optimized.added),
            tokens=optimized.tokens,
            budget=optimized.budget,
        )
    else:
        output.say(mark("nothing was added"))


@command.command(
    "generate",
    cls=Command,
    help=mark(
        "Make COUNT new prompts from lists of words; no combination repeats until all have "
        "been used.\n\nA vocabulary is a file, .json or .toml, with lists of words: subjects, "
        "adjectives, environments, lighting, styles, compositions."
    ),
)
@click.argument("count", type=click.IntRange(1, sys.maxsize))
@click.option(
    "--elements",
    cls=Option,
    type=click.IntRange(1, 6),
    default=3,
    help=mark("How many words each prompt has."),
)
@click.option(
    "--seed", cls=Option, type=int, help=mark("Seed that decides which; random by default.")
)
@click.option(
    "--vocabulary", cls=Option, metavar="FILE", help=mark("Words in place of the built-in ones.")
)
@click.option(
    "--output", "target", cls=Option, metavar="FILE", help=mark("Write the prompts there.")
)
@output_options
def generate(
    *,
    count: int,
    elements: int,
    seed: int | None,
    vocabulary: str | None,
    target: str | None,
    output: Output,
) -> None:
    """Draws them one after the other."""
    from zhcache.prompts.generator import Draws, phrase

    draws = Draws(elements, seed, vocabulary)
    with Lines(target) as lines:
        for words in islice(draws, count):
            made = GeneratedPrompt(prompt=phrase(words), words=words, seed=draws.seed)
            lines.write(json_line(made) if output.is_json else made.prompt)
    if not output.is_json:
        if seed is None:
            output.say(mark("to get the same again: --seed {seed}"), seed=draws.seed)
        if count > draws.combinations:
            output.say(
                mark("there are {combinations} combinations; after that they repeat"),
                combinations=draws.combinations,
            )
    _finish(lines, count, output)


def _finish(lines: Lines, count: int, output: Output) -> None:
    if lines.path is None:
        return
    path = str(lines.path)
    output.emit(
        Written(path=path, prompts=count),
        ids=[path],
        text=lambda: [translate(mark("{count} prompts to {path}"), count=count, path=path)],
    )
