"""``zhcache pin REPO...``: protect from removal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
import msgspec

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.outcomes import Outcomes
from zhcache.i18n import mark, translate


class Pinned(msgspec.Struct, kw_only=True):
    """What ``pin --json`` and ``unpin --json`` print."""

    repo: str
    pinned: bool
    schema: int = 1


@click.command("pin", cls=Command, help=mark("Protect repositories from being removed."))
@click.argument("repos", metavar="REPO...", nargs=-1, required=True)
@output_options
@pass_session
def command(session: Session, repos: Sequence[str], output: Output) -> int:
    """Pins each."""
    return set_pins(
        session, repos, output, session.client.pin, mark("{repo} is pinned"), is_pinned=True
    )


def set_pins(
    session: Session,
    repos: Sequence[str],
    output: Output,
    act: Callable[[str], None],
    text: str,
    *,
    is_pinned: bool,
) -> int:
    """Pins or unpins each of ``repos`` and says so."""
    outcomes = Outcomes(session, output)
    for repo in repos:
        with outcomes.attempt():
            act(repo)
            said = translate(text, repo=repo)
            output.emit(Pinned(repo=repo, pinned=is_pinned), ids=[repo], text=[said].copy)
    return outcomes.exit_code
