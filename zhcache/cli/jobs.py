"""``zhcache jobs``: work in progress and past."""

from __future__ import annotations

import click

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.table import table
from zhcache.i18n import mark, message_of, translate
from zhcache.progress import size, state
from zhcache.protocol.failure import to_error
from zhcache.protocol.messages import Job, Jobs

_HEADS = (mark("ID"), mark("KIND"), mark("REPO"), mark("STATE"), mark("DONE"), mark("NOTE"))


@click.command("jobs", cls=Command, help=mark("List jobs, running and past."))
@click.option("--active", cls=Option, is_flag=True, help=mark("Only those in progress."))
@output_options
@pass_session
def command(session: Session, *, active: bool, output: Output) -> None:
    """Lists jobs."""
    jobs = session.client.jobs(past=not active)
    output.emit(
        Jobs(jobs=jobs),
        ids=[job.id for job in jobs],
        text=lambda: table(_HEADS, [_row(job) for job in jobs]),
    )


def _row(job: Job) -> tuple[str, ...]:
    done = f"{size(job.bytes_done)} / {size(job.bytes_total)}" if job.bytes_total else "-"
    note = message_of(to_error(job.error)) if job.error else translate(job.note)
    return job.id, job.kind, job.repo or "-", state(job.state), done, note
