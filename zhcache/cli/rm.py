"""``zhcache rm REPO...``: let go."""

from __future__ import annotations

from collections.abc import Sequence

import click

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.outcomes import Outcomes
from zhcache.i18n import mark, translate
from zhcache.progress import size
from zhcache.protocol.messages import Removed


@click.command(
    "rm", cls=Command, help=mark("Let repositories go; `zhcache gc` then frees their bytes.")
)
@click.argument("repos", metavar="REPO...", nargs=-1, required=True)
@click.option("--revision", cls=Option, metavar="R", help=mark("Only this revision."))
@output_options
@pass_session
def command(session: Session, repos: Sequence[str], revision: str | None, output: Output) -> int:
    """Removes each."""
    outcomes = Outcomes(session, output)
    for repo in repos:
        with outcomes.attempt():
            _show(session.client.remove(repo, revision=revision), output)
    return outcomes.exit_code


def _show(removed: Removed, output: Output) -> None:
    output.emit(
        removed,
        ids=[removed.repo],
        text=lambda: [
            translate(
                mark("{repo}: removed; `zhcache gc` frees {size}"),
                repo=removed.repo,
                size=size(removed.bytes_released),
            )
        ],
    )
