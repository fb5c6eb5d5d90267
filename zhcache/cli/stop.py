"""``zhcache stop REPO``: let what is warm of a model go."""

from __future__ import annotations

import click

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.i18n import mark, translate
from zhcache.progress import size


@click.command(
    "stop", cls=Command, help=mark("Stop keeping a model in memory; what is in use stays.")
)
@click.argument("repo")
@click.option("--variant", cls=Option, metavar="V", help=mark("Only this variant."))
@click.option("--device", cls=Option, metavar="D", help=mark("Only on this device."))
@click.option("--force", "is_forced", cls=Option, is_flag=True, help=mark("Also what is in use."))
@output_options
@pass_session
def command(
    session: Session,
    *,
    repo: str,
    variant: str | None,
    device: str | None,
    is_forced: bool,
    output: Output,
) -> None:
    """Stops it; 75 names who uses what had to stay."""
    stopped = session.client.unload(repo, variant=variant, device=device, force=is_forced)
    output.emit(
        stopped,
        ids=[stopped.repo],
        text=lambda: [
            translate(
                mark("{repo}: {size} on {devices} is no longer kept in memory"),
                repo=stopped.repo,
                size=size(stopped.bytes),
                devices=", ".join(stopped.devices),
            )
        ],
    )
