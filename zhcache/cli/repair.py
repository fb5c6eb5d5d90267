"""``zhcache repair``: rebuild the index from the disk, fetch again what is damaged."""

from __future__ import annotations

import click

from zhcache.cli.attend import attend
from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.verify import finding
from zhcache.errors import IntegrityError
from zhcache.i18n import mark
from zhcache.results import raise_failure


@click.command(
    "repair",
    cls=Command,
    help=mark("Rebuild the index from the files on disk, and download damaged files again."),
)
@output_options
@pass_session
def command(session: Session, output: Output) -> int:
    """Repairs; what stays missing is exit code 9."""
    job = attend(session, session.client.repair(), output)
    found = finding(job, output)
    raise_failure(job)
    return IntegrityError.exit_code if found.missing else 0
