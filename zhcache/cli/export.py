"""``zhcache export REPO DIR``: a plain copy that is the caller's own."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.i18n import mark, translate
from zhcache.progress import size


class ExportReply(msgspec.Struct, kw_only=True):
    """What ``export --json`` prints. Sizes in bytes."""

    repo: str
    commit: str
    path: str
    files: int
    bytes: int
    bytes_cloned: int
    schema: int = 1


@click.command("export", cls=Command, help=mark("Copy a snapshot to a plain folder of your own."))
@click.argument("repo")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--revision", cls=Option, metavar="R", help=mark("Branch, tag or commit."))
@output_options
@pass_session
def command(
    session: Session, repo: str, folder: Path, revision: str | None, output: Output
) -> None:
    """Copies it."""
    target = folder.expanduser().absolute()
    done = session.client.export(repo, target, revision=revision)
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
