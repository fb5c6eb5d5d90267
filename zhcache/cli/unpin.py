"""``zhcache unpin REPO...``: take a pin back."""

from __future__ import annotations

from collections.abc import Sequence

import click

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.pin import set_pins
from zhcache.i18n import mark


@click.command("unpin", cls=Command, help=mark("Let pinned repositories be removed again."))
@click.argument("repos", metavar="REPO...", nargs=-1, required=True)
@output_options
@pass_session
def command(session: Session, repos: Sequence[str], output: Output) -> int:
    """Unpins each."""
    return set_pins(
        session,
        repos,
        output,
        session.client.unpin,
        mark("{repo} is no longer pinned"),
        is_pinned=False,
    )
