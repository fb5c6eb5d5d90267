"""``zhcache cancel ID...``: end a job; what it fetched stays for a later one."""

from __future__ import annotations

from collections.abc import Sequence

import click

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.outcomes import Outcomes
from zhcache.i18n import mark, translate
from zhcache.progress import state
from zhcache.protocol.messages import Job


@click.command("cancel", cls=Command, help=mark("Cancel jobs; what they have downloaded is kept."))
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@output_options
@pass_session
def command(session: Session, job_ids: Sequence[str], output: Output) -> int:
    """Cancels each."""
    outcomes = Outcomes(session, output)
    for job_id in job_ids:
        with outcomes.attempt():
            _show(session.client.cancel(job_id), output)
    return outcomes.exit_code


def _show(job: Job, output: Output) -> None:
    output.emit(
        job,
        ids=[job.id],
        text=lambda: [translate(mark("job {job} is {state}"), job=job.id, state=state(job.state))],
    )
