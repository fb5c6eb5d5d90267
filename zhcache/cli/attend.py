"""Attends jobs to their end: progress, and what Ctrl-C means meanwhile."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Sequence

import click

from zhcache.cli.base import Output, Session
from zhcache.errors import ZhcacheError
from zhcache.i18n import mark, translate
from zhcache.progress import display
from zhcache.protocol.messages import Job

SECOND_CTRL_C_S = 2.0
"""How long a second Ctrl-C is waited for before the job is left to itself."""


def attend(session: Session, job: Job, output: Output, waiting: Sequence[Job] = ()) -> Job:
    """Returns ``job`` once it is over, however it ended.

    The first Ctrl-C leaves it running in the daemon, and says so; a second one cancels it. Both
    end the command.

    Args:
        session: This run.
        job: Which one.
        output: Whether progress is wanted.
        waiting: Further jobs of the same command, which Ctrl-C concerns as well.
    """
    try:
        with display(is_quiet=output.is_quiet) as shown:
            return session.client.wait(job.id, on_progress=shown.update)
    except KeyboardInterrupt:
        _interrupted(session, [job, *waiting])
        raise


def _interrupted(session: Session, jobs: Sequence[Job]) -> None:
    # Blocked rather than handled: a second Ctrl-C that comes while this prints stays pending,
    # where a handler would have to be written for every point it may strike.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for job in jobs:
            _say(
                mark(
                    "\nJob {job} ({repo}) goes on in the background: `zhcache wait {job}`."
                    " Press Ctrl-C again to cancel it."
                ),
                job=job.id,
                repo=job.repo or job.kind,
            )
        if signal.sigtimedwait({signal.SIGINT}, SECOND_CTRL_C_S) is None:
            return
        for job in jobs:
            with contextlib.suppress(ZhcacheError):
                session.client.cancel(job.id)
                _say(mark("Job {job} is cancelled."), job=job.id)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _say(text: str, **values: object) -> None:
    with contextlib.suppress(OSError):
        click.echo(translate(text, **values), err=True)
        sys.stderr.flush()
