"""``zhcache path REPO``: the folder that ``from_pretrained`` reads."""

from __future__ import annotations

import click
import msgspec

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.i18n import mark


class PathReply(msgspec.Struct, kw_only=True):
    """What ``path --json`` prints."""

    repo: str
    path: str
    schema: int = 1


@click.command(
    "path",
    cls=Command,
    help=mark("Print a snapshot's folder, which from_pretrained reads offline."),
)
@click.argument("repo")
@click.option("--variant", cls=Option, metavar="V", help=mark("A variant instead of the original."))
@click.option("--revision", cls=Option, metavar="R", help=mark("Branch, tag or commit."))
@output_options
@pass_session
def command(
    session: Session, repo: str, variant: str | None, revision: str | None, output: Output
) -> None:
    """Prints where it is."""
    folder = str(session.client.path(repo, variant=variant, revision=revision))
    output.emit(PathReply(repo=repo, path=folder), ids=[folder], text=lambda: [folder])
