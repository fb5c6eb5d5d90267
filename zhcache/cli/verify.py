"""``zhcache verify [REPO]``: read everything again and compare."""

from __future__ import annotations

from collections.abc import Iterator

import click

from zhcache.cli.attend import attend
from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.errors import IntegrityError, ZhcacheError
from zhcache.i18n import mark, translate
from zhcache.progress import size
from zhcache.protocol.messages import Job, VerifyResult
from zhcache.results import raise_failure


@click.command(
    "verify",
    cls=Command,
    help=mark("Hash the files in the store again; damaged ones are set aside."),
)
@click.argument("repo", required=False)
@output_options
@pass_session
def command(session: Session, repo: str | None, output: Output) -> int:
    """Verifies; damage is exit code 9."""
    found = finding(attend(session, session.client.verify(repo), output), output)
    return IntegrityError.exit_code if found.damaged or found.missing else 0


def finding(job: Job, output: Output) -> VerifyResult:
    """Prints what a finished verify or repair found and returns it.

    Raises:
        ZhcacheError: The job failed without a finding.
    """
    if job.verify is None:
        raise_failure(job)
        raise ZhcacheError("job {job} is a {kind} and found nothing", job=job.id, kind=job.kind)
    found = job.verify
    output.emit(found, ids=[blob.sha256 for blob in found.damaged], text=lambda: _lines(found))
    return found


def _lines(found: VerifyResult) -> Iterator[str]:
    if found.rebuilt:
        yield translate(mark("index rebuilt from the disk"))
    for blob in found.damaged:
        yield translate(
            mark("damaged: {sha256} {size}, used by {repos}"),
            sha256=blob.sha256,
            size=size(blob.size),
            repos=", ".join(blob.used_by) or "-",
        )
    for name in found.missing:
        yield translate(mark("missing: {name}"), name=name)
    if found.refetched:
        yield translate(mark("{count} fetched again"), count=found.refetched)
    yield translate(
        mark("{count} files checked, {size}, {damaged} damaged"),
        count=found.checked,
        size=size(found.bytes),
        damaged=len(found.damaged),
    )
    if (found.damaged or found.missing) and not found.rebuilt:
        yield translate(mark("Next: {hint}"), hint="zhcache repair")
