"""``zhcache warm REPO``: keep a model ready in memory."""

from __future__ import annotations

from collections.abc import Iterator

import click

from zhcache.cli.attend import attend
from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.presence import ensure
from zhcache.cli.span import Span
from zhcache.cli.table import when
from zhcache.i18n import mark, translate
from zhcache.progress import size
from zhcache.protocol.messages import WarmResult
from zhcache.results import warmed


@click.command(
    "warm",
    cls=Command,
    help=mark("Keep a model ready in memory; fetches it first if it is not in the store."),
)
@click.argument("repo")
@click.option("--revision", cls=Option, metavar="R", help=mark("Branch, tag or commit."))
@click.option("--variant", cls=Option, metavar="V", help=mark("Use this variant."))
@click.option(
    "--device",
    cls=Option,
    metavar="D",
    default="auto",
    help=mark("auto, cpu, cuda, cuda:N or a GPU's UUID; auto by default."),
)
@click.option(
    "--resident",
    "is_resident",
    cls=Option,
    is_flag=True,
    help=mark(
        "Load the whole pipeline in a worker, ready for `zhcache run`, instead of only the weights."
    ),
)
@click.option(
    "--for",
    "keep_s",
    cls=Option,
    type=Span(),
    metavar="TIME",
    help=mark(
        "How long to keep it: 90s, 10m, 2h, 1d or forever; by default [residency] keep_alive."
    ),
)
@output_options
@pass_session
def command(
    session: Session,
    *,
    repo: str,
    revision: str | None,
    variant: str | None,
    device: str,
    is_resident: bool,
    keep_s: float | None,
    output: Output,
) -> None:
    """Makes it warm and says what is really in memory then."""
    if device != "auto":
        # Before gigabytes are fetched for a device that is not there.
        session.client.device(device)
    commit = ensure(session, repo, revision, variant, output)
    job = session.client.warm(
        repo,
        # By commit: the branch may move on between the two jobs.
        revision=commit,
        variant=variant,
        device=device,
        mode="resident" if is_resident else "attach",
        keep_s=keep_s,
    )
    result = warmed(attend(session, job, output))
    output.emit(result, ids=[result.repo], text=lambda: _lines(result))


def _lines(result: WarmResult) -> Iterator[str]:
    name = f"{result.repo} ({result.variant})" if result.variant else result.repo
    if result.mode == "resident":
        yield translate(
            mark("{repo}: a worker holds it on {device}, {size}"),
            repo=name,
            device=result.device,
            size=size(result.bytes),
        )
    else:
        yield translate(
            mark("{repo}: {resident} of {size} are in memory on {device}"),
            repo=name,
            resident=size(result.bytes_resident),
            size=size(result.bytes),
            device=result.device,
        )
        if not result.locked:
            yield translate(
                mark("not locked: the system may take it back, and it is read again then")
            )
    if result.expires is None:
        yield translate(mark("until `zhcache stop {repo}`"), repo=result.repo)
    else:
        yield translate(mark("until {time} or later"), time=when(result.expires))
