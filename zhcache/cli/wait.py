"""``zhcache wait ID``: until a job is over, with its outcome."""

from __future__ import annotations

import click

from zhcache.cli.attend import attend
from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.prefetch import show_result
from zhcache.cli.verify import finding
from zhcache.errors import IntegrityError
from zhcache.i18n import mark
from zhcache.results import raise_failure, result_of


@click.command("wait", cls=Command, help=mark("Wait for a job to end, and report its outcome."))
@click.argument("job_id", metavar="ID")
@output_options
@pass_session
def command(session: Session, job_id: str, output: Output) -> int:
    """Waits; the exit code is the job's."""
    job = attend(session, session.client.job(job_id), output)
    if job.verify is None:
        show_result(result_of(job), output)
        return 0
    found = finding(job, output)
    raise_failure(job)
    is_bad = found.missing or (found.damaged and job.kind == "verify")
    return IntegrityError.exit_code if is_bad else 0
