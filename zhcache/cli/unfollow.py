"""``zhcache unfollow REPO...``: keep models fresh no longer."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.outcomes import Outcomes
from zhcache.i18n import mark, translate


class Unfollowed(msgspec.Struct, kw_only=True):
    """What ``unfollow --json`` prints."""

    repo: str
    commit: str | None
    schema: int = 1


@click.command(
    "unfollow", cls=Command, help=mark("Stop following models; what is in the store stays.")
)
@click.argument("repos", metavar="REPO...", nargs=-1, required=True)
@output_options
@pass_session
def command(session: Session, repos: Sequence[str], output: Output) -> int:
    """Ends the following of each."""
    outcomes = Outcomes(session, output)
    for repo in repos:
        with outcomes.attempt():
            ended = session.client.unfollow(repo)
            said = translate(
                mark("{repo} is no longer followed; what is in the store stays"), repo=repo
            )
            told = Unfollowed(repo=ended.repo, commit=ended.commit)
            output.emit(told, ids=[ended.repo], text=[said].copy)
    return outcomes.exit_code
