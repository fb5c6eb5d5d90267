"""``zhcache export REPO DIR``: a plain copy of one's own, or a disk for machines without a line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from zhcache import disk
from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.outcomes import Outcomes
from zhcache.errors import UsageError
from zhcache.export import Exported
from zhcache.i18n import mark, translate
from zhcache.progress import display, size
from zhcache.protocol.messages import Job

_SHOW_EVERY_S = 0.25


class ExportReply(msgspec.Struct, kw_only=True):
    """What ``export --json`` prints. Sizes in bytes."""

    repo: str
    commit: str
    path: str
    files: int
    bytes: int
    bytes_cloned: int
    schema: int = 1


@click.command(
    "export",
    cls=Command,
    help=mark(
        "Copy a snapshot to a plain folder of your own, or with --disk several snapshots to a"
        " disk; `zhcache import` on another machine verifies and imports them."
    ),
)
@click.argument("repos", metavar="REPO...", nargs=-1, required=True)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--revision", cls=Option, metavar="R", help=mark("Branch, tag or commit."))
@click.option(
    "--disk",
    "is_disk",
    cls=Option,
    is_flag=True,
    help=mark(
        "Write to a disk, with a lock file; an interrupted export continues where it stopped."
    ),
)
@output_options
@pass_session
def command(
    session: Session,
    repos: Sequence[str],
    folder: Path,
    revision: str | None,
    is_disk: bool,
    output: Output,
) -> int:
    """Copies them."""
    if len(repos) > 1 and not (is_disk and revision is None):
        raise UsageError(
            "a plain copy is of one model",
            hint="several go to a disk: zhcache export --disk REPO[@REVISION]... DIR",
        )
    target = folder.expanduser().absolute()
    outcomes = Outcomes(session, output)
    for text in repos:
        with outcomes.attempt():
            repo, _, at = text.partition("@")
            wanted = revision or at or None
            if is_disk:
                show(repo, _to_disk(session, repo, wanted, target, output), output)
            else:
                show(repo, session.client.export(repo, target, revision=wanted), output)
    return outcomes.exit_code


def _to_disk(
    session: Session, repo: str, revision: str | None, target: Path, output: Output
) -> Exported:
    client = session.client
    with (
        client.lease(repo, revision=revision) as lease,
        display(is_quiet=output.is_quiet) as shown,
    ):
        held = client.show(repo, revision=lease.granted.commit)
        branch = revision if revision in held.revisions else None
        copying = Job(id="", kind="import", repo=repo, state="running", bytes_total=held.bytes)
        next_at = time.monotonic()

        def count(step: int) -> None:
            nonlocal next_at
            copying.bytes_done += step
            if time.monotonic() >= next_at:
                next_at = time.monotonic() + _SHOW_EVERY_S
                shown.update(copying)

        return disk.write(lease.path, held, target, revision=branch, progress=count)


def show(repo: str, done: Exported, output: Output) -> None:
    """Prints what was written."""
    reply = ExportReply(
        repo=repo,
        commit=done.commit,
        path=str(done.path),
        files=done.files,
        bytes=done.bytes,
        bytes_cloned=done.bytes_cloned,
    )
    output.emit(reply, ids=[reply.path], text=lambda: [_line(reply)])


def _line(reply: ExportReply) -> str:
    return translate(
        mark("{repo}: {files} files, {size} to {path}"),
        repo=reply.repo,
        files=reply.files,
        size=size(reply.bytes),
        path=reply.path,
    )
