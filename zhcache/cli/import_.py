"""``zhcache import PATH``: take in what other tools have downloaded already."""

from __future__ import annotations

from pathlib import Path

import click

from zhcache.caches import Found, find
from zhcache.cli.attend import attend
from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.outcomes import Outcomes
from zhcache.cli.prefetch import show_result
from zhcache.errors import UsageError
from zhcache.i18n import mark
from zhcache.results import result_of


@click.command(
    "import",
    cls=Command,
    help=mark(
        "Take in a Hugging Face or ModelScope cache, a plain folder, or a whole Stable Diffusion"
        " model in one .safetensors file; it stays as it is."
    ),
)
@click.argument("folder", metavar="PATH", type=click.Path(path_type=Path))
@click.option(
    "--repo",
    cls=Option,
    metavar="OWNER/NAME",
    help=mark("What a plain folder or a file is; of a cache, the only one to take."),
)
@click.option(
    "--revision",
    cls=Option,
    metavar="R",
    help=mark("What to call the snapshot of a plain folder or a file."),
)
@click.option(
    "--like",
    cls=Option,
    metavar="OWNER/BASE",
    help=mark("Of a file: the model whose configurations, tokenizers and scheduler it gets."),
)
@output_options
@pass_session
def command(
    session: Session,
    folder: Path,
    repo: str | None,
    revision: str | None,
    like: str | None,
    output: Output,
) -> int:
    """Imports each snapshot found, or the model in a file."""
    outcomes = Outcomes(session, output)
    place = folder.expanduser().absolute()
    if place.is_file():
        with outcomes.attempt():
            job = session.client.import_checkpoint(place, repo=repo, like=like, revision=revision)
            show_result(result_of(attend(session, job, output)), output)
        return outcomes.exit_code
    if like is not None:
        raise UsageError("--like is for a file, and {path} is none", path=folder)
    for found in find(place, repo=repo, revision=revision):
        with outcomes.attempt():
            _take(session, found, output)
    return outcomes.exit_code


def _take(session: Session, found: Found, output: Output) -> None:
    for path in found.skipped:
        output.say(
            mark("{repo}: {path} cannot be read and is left out"), repo=found.repo, path=path
        )
    files = [real for _, real, _ in found.files]
    job = session.client.import_folder(found.request(), files)
    show_result(result_of(attend(session, job, output)), output)
