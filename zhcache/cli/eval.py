"""``zhcache eval DIR_A DIR_B``: how far two sets of pictures are apart, and what that rests on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.table import printable, table
from zhcache.evaluate import installed
from zhcache.evaluate.wanted import METRICS
from zhcache.i18n import mark, translate

if TYPE_CHECKING:
    from zhcache.evaluate.outcome import Comparison

_CLEAR = "\r\x1b[K"
_STEPS = {
    "pixels": mark("comparing pixels: {done} of {total}"),
    "distance": mark("comparing features: {done} of {total}"),
    "features": mark("looking at pictures: {done} of {total}"),
    "score": mark("judging pictures: {done} of {total}"),
}


@click.command(
    "eval",
    cls=Command,
    help=mark(
        "Measure how far pictures in DIR_B are from those in DIR_A, with intervals over prompts."
        "\n\nPictures of `zhcache run` are paired by the prompt and seed that they say, others by"
        " file name."
    ),
)
@click.argument("a", metavar="DIR_A")
@click.argument("b", metavar="DIR_B")
@click.option(
    "--metric",
    "metrics",
    cls=Option,
    type=click.Choice(METRICS),
    multiple=True,
    help=mark("Measure only this; may be repeated. By default everything possible except fid."),
)
@click.option(
    "--extractor",
    cls=Option,
    metavar="MODEL",
    help=mark(
        "Model that extracts the features for distance, cmmd, kid and fid: "
        "OWNER/NAME[@REVISION], or your own function as FILE.py:NAME."
    ),
)
@click.option(
    "--judge",
    "judges",
    cls=Option,
    metavar="REPO",
    multiple=True,
    help=mark("A model that scores pictures by their prompts; name two that are unrelated."),
)
@click.option(
    "--prompts",
    cls=Option,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=mark(
        'The prompts that the pictures should show, in JSON: {"NAME": "PROMPT"}, or the'
        " output of `zhcache run --json`."
    ),
)
@click.option(
    "--pair-by",
    cls=Option,
    type=click.Choice(["prompt", "name"]),
    help=mark("Pair pictures by prompt and seed, or by file name."),
)
@click.option("--html", cls=Option, metavar="FILE", type=click.Path(path_type=Path),
              help=mark("Write a report with pictures side by side."))  # fmt: skip
@click.option("--shown", cls=Option, type=click.IntRange(0), default=50, show_default=True,
              help=mark("How many pairs the report shows at most; those that differ most come"
                        " first."))  # fmt: skip
@click.option("--seed", cls=Option, type=int, default=0, show_default=True,
              help=mark("Seed of the resampling behind the intervals."))  # fmt: skip
@click.option("--device", cls=Option, metavar="D", default="auto", help=mark("auto, cpu, cuda:N."))
@output_options
@pass_session
def command(
    session: Session,
    *,
    a: str,
    b: str,
    metrics: Sequence[str],
    html: Path | None,
    shown: int,
    output: Output,
    **options: Any,
) -> None:
    """Compares, prints the numbers, then what to beware of."""
    installed.check()
    from zhcache.evaluate.compared import compare
    from zhcache.evaluate.features import is_stored
    from zhcache.evaluate.report import place

    if html is not None:
        # Hours of measuring are not to be lost for want of a place.
        place(html)
    if options["judges"] or is_stored(options["extractor"] or ""):
        # Only this client knows whether a daemon may be started.
        session.client.connect()
    is_shown = sys.stderr.isatty() and not output.is_quiet

    def progress(what: str, done: int, total: int) -> None:
        if is_shown:
            said = translate(_STEPS[what], done=done, total=total)
            click.echo(f"{_CLEAR}{said}", nl=False, err=True)

    try:
        # A user's extractor may print, and stdout is for the result.
        with contextlib.redirect_stdout(sys.stderr):
            found = compare(Path(a), Path(b), metrics=metrics or None, progress=progress, **options)
    finally:
        if is_shown:
            click.echo(_CLEAR, nl=False, err=True)
    if html is not None:
        found.html(html, pictures=shown)
    rows = found.result.metrics
    ids = [f"{row.metric} {row.value:.6g}" for row in rows]
    output.emit(found.result, ids=ids, text=lambda: _lines(found, html))
    for note in found.notes:
        output.say(note.template, **note.values)


def _lines(found: Comparison, html: Path | None) -> Iterator[str]:
    from zhcache.evaluate.report import HEADS, cells

    yield from table(HEADS, [cells(row) for row in found.result.metrics], right=(1, 2, 3, 5))
    if html is not None:
        yield printable(str(html))
