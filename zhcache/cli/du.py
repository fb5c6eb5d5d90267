"""``zhcache du``: where the disk went."""

from __future__ import annotations

from collections.abc import Iterator

import click

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.table import table
from zhcache.i18n import mark, translate
from zhcache.progress import size
from zhcache.protocol.messages import Space

_HEADS = (mark("REPO"), mark("SNAPSHOTS"), mark("SIZE"), mark("ITS OWN"))


@click.command("du", cls=Command, help=mark("Show how the disk space is used."))
@output_options
@pass_session
def command(session: Session, output: Output) -> None:
    """Shows space by repository and in all."""
    space = session.client.space()
    output.emit(space, ids=[use.repo for use in space.repos], text=lambda: _lines(space))


def _lines(space: Space) -> Iterator[str]:
    rows: list[tuple[str, str, str, str]] = []
    for use in space.repos:
        rows.append((use.repo, str(use.snapshots), size(use.bytes), size(use.bytes_own)))
        for made in use.variants:
            name = f"  {made.commit[:12]} ({made.variant})"
            rows.append((name, "", size(made.bytes), size(made.bytes_own)))
    yield from table(_HEADS, rows, right=(1, 2, 3))
    yield ""
    unlimited = translate(mark("none"))
    facts = (
        (mark("Blobs"), size(space.bytes_blobs)),
        (mark("Partial downloads"), size(space.bytes_partial)),
        (mark("Freed by the next gc"), size(space.bytes_released)),
        (mark("Reserved"), size(space.bytes_reserved)),
        (mark("Free on the disk"), size(space.bytes_free)),
        (mark("Quota"), size(space.quota) if space.quota else unlimited),
        (mark("Always left free"), size(space.min_free)),
    )
    for name, value in facts:
        yield f"{translate(name)}: {value}"
