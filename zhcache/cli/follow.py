"""``zhcache follow [REPO]``: keep a model's revision fresh; without one, what is followed."""

from __future__ import annotations

from collections.abc import Sequence

import click

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.span import Span, spelt
from zhcache.cli.table import table, when
from zhcache.errors import UsageError
from zhcache.i18n import mark, message_of, translate
from zhcache.protocol.failure import to_error
from zhcache.protocol.follow import Followed, Follows

_HEADS = (
    mark("REPO"),
    mark("REVISION"),
    mark("EVERY"),
    mark("VARIANTS"),
    mark("STATE"),
    mark("COMMIT"),
    mark("LAST LOOK"),
    mark("NEXT LOOK"),
    mark("LAST ERROR"),
)
_STATES = {
    "new": mark("not looked at yet"),
    "looking": mark("being looked at"),
    "waiting": mark("new revision waits"),
    "fetching": mark("being fetched"),
    "fresh": mark("fresh"),
    "failing": mark("failing"),
}


@click.command(
    "follow",
    cls=Command,
    help=mark("Keep a model up to date; without REPO, list the followed models."),
)
@click.argument("repo", metavar="[REPO]", required=False)
@click.option("--revision", cls=Option, metavar="R", help=mark("Branch or tag."))
@click.option(
    "--every",
    "every_s",
    cls=Option,
    metavar="TIME",
    type=Span(can_last=False),
    help=mark("How often to look for a new revision, such as 6h; by default as configured."),
)
@click.option(
    "--variant",
    "variants",
    cls=Option,
    metavar="V",
    multiple=True,
    help=mark("Make this variant of each revision; may be repeated."),
)
@click.option(
    "--keep",
    cls=Option,
    metavar="N",
    type=click.IntRange(0, 100),
    help=mark("How many earlier revisions to keep; by default as configured."),
)
@click.option(
    "--only-pipeline/--all-files",
    "only_pipeline",
    cls=Option,
    default=None,
    help=mark("Leave out files that from_pretrained would not read."),
)
@click.option(
    "--allow-pickle/--no-pickle",
    "allow_pickle",
    cls=Option,
    default=None,
    help=mark("Convert weights that exist only as pickle, in a sandbox; keep only safetensors."),
)
@output_options
@pass_session
def command(
    session: Session,
    *,
    repo: str | None,
    revision: str | None,
    every_s: float | None,
    variants: Sequence[str],
    keep: int | None,
    only_pipeline: bool | None,
    allow_pickle: bool | None,
    output: Output,
) -> None:
    """Follows a model, or lists what is followed."""
    said = (revision, every_s, keep, only_pipeline, allow_pickle)
    if repo is not None:
        followed = session.client.follow(
            repo,
            revision=revision,
            every_s=every_s,
            variants=variants or None,
            keep=keep,
            only_pipeline=only_pipeline,
            allow_pickle=allow_pickle,
        )
        output.emit(followed, ids=[followed.repo], text=lambda: [_begun(followed)])
        return
    if variants or any(value is not None for value in said):
        raise UsageError("which model is to be followed is not said", hint="zhcache follow REPO")
    listed = session.client.followed()
    output.emit(
        Follows(followed=listed),
        ids=[one.repo for one in listed],
        text=lambda: table(_HEADS, [_row(one) for one in listed]),
    )


def _begun(followed: Followed) -> str:
    return translate(
        mark(
            "{repo} ({revision}) is followed: zhcache looks for a new revision every {time}, "
            "beginning now. `zhcache follow` shows what it finds, `zhcache jobs` what is "
            "being downloaded"
        ),
        repo=followed.repo,
        revision=followed.revision,
        time=spelt(followed.every),
    )


def _row(one: Followed) -> tuple[str, ...]:
    return (
        one.repo,
        one.revision,
        spelt(one.every),
        ",".join(one.variants) or "-",
        translate(_STATES[one.state]),
        (one.commit or "-")[:12],
        when(one.looked),
        when(one.next),
        message_of(to_error(one.error)) if one.error else "-",
    )
