"""``zhcache adapter ls`` and ``zhcache adapter export``: the adapters that are held."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from zhcache.chinese.adapter.format import repo_of
from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.export import show
from zhcache.cli.table import table
from zhcache.i18n import mark
from zhcache.protocol.prompts import ChineseChoices, PromptModel

_HEADS = (
    mark("NAME"),
    mark("FOR"),
    mark("RETRIEVAL"),
    mark("ERROR"),
    mark("PAIRS"),
    mark("TRAINED ON"),
)


@click.command(
    "ls",
    cls=Command,
    help=mark("List adapters, best first: all, or those that fit the model BASE."),
)
@click.argument("base", metavar="[BASE]", required=False)
@output_options
@pass_session
def ls(session: Session, base: str | None, output: Output) -> None:
    """Lists them with what was measured when they were trained."""
    choices = (
        ChineseChoices(repo="", commit="", class_name="", models=session.client.prompt_models())
        if base is None
        else session.client.chinese(base)
    )
    choices.models = [model for model in choices.models if model.route == "adapter"]
    output.emit(
        choices,
        ids=[model.repo for model in choices.models],
        text=lambda: table(_HEADS, [_row(model) for model in choices.models], right=(2, 3, 4)),
    )


def _row(model: PromptModel) -> Sequence[str]:
    quality = model.quality
    return (
        model.name,
        model.base,
        f"{quality['retrieval']:.3f}" if "retrieval" in quality else "-",
        f"{quality['heldout_error']:.3f}" if "heldout_error" in quality else "-",
        f"{quality['pairs']:.0f}" if "pairs" in quality else "-",
        model.trained_on or "-",
    )


@click.command(
    "export",
    cls=Command,
    help=mark(
        "Copy the adapter NAME, with its card, to a plain folder; on another machine `zhcache"
        " import DIR --repo adapters/NAME` imports it."
    ),
)
@click.argument("name", metavar="NAME")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@output_options
@pass_session
def export(session: Session, name: str, folder: Path, output: Output) -> None:
    """Copies it."""
    repo = repo_of(name)
    show(repo, session.client.export(repo, folder.expanduser().absolute()), output)
