"""``zhcache lock REPO... > FILE``: commits and hashes, for ``prefetch --lock``."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.i18n import mark


@click.command(
    "lock",
    cls=Command,
    help=mark("Print a lock file: the commits and hashes of what is in the store."),
)
@click.argument("repos", metavar="REPO...", nargs=-1, required=True)
@output_options
@pass_session
def command(session: Session, repos: Sequence[str], output: Output) -> None:
    """Prints the lock file, which is JSON whether or not that was asked for."""
    lock = session.client.lock(repos)
    text = msgspec.json.format(msgspec.json.encode(lock), indent=2).decode()
    output.emit(
        lock, ids=[f"{locked.repo}@{locked.commit}" for locked in lock.repos], text=lambda: [text]
    )
