"""``zhcache logs [ID]``: what the daemon wrote, of one job or of all."""

from __future__ import annotations

import click

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.table import printable, when
from zhcache.i18n import mark
from zhcache.protocol.messages import LogLine


@click.command("logs", cls=Command, help=mark("Show the daemon's log, of one job or of all."))
@click.argument("job_id", metavar="[ID]", required=False)
@click.option("-f", "--follow", cls=Option, is_flag=True, help=mark("Keep printing new lines."))
@click.option(
    "-n",
    "--lines",
    cls=Option,
    type=click.IntRange(min=1),
    default=200,
    help=mark("How many past lines."),
)
@output_options
@pass_session
def command(
    session: Session, *, job_id: str | None, follow: bool, lines: int, output: Output
) -> None:
    """Prints log lines."""
    for line in session.client.logs(job_id, lines=lines, follow=follow):
        shown = _text(line)
        output.emit(line, ids=[line.job] if line.job else [], text=lambda shown=shown: [shown])


def _text(line: LogLine) -> str:
    fields = " ".join(f"{key}={value}" for key, value in line.fields.items())
    parts = (when(line.time), line.level, line.job, line.event, fields)
    text = " ".join(part for part in parts if part)
    return printable(text)
