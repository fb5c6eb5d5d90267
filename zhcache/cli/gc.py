"""``zhcache gc``: free what nobody needs."""

from __future__ import annotations

from collections.abc import Iterator

import click

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.table import table
from zhcache.i18n import mark, translate
from zhcache.progress import size
from zhcache.protocol.messages import GcItem, GcReport

_HEADS = (mark("ACTION"), mark("KIND"), mark("NAME"), mark("SIZE"), mark("WHY"))


@click.command(
    "gc", cls=Command, help=mark("Free the space that nothing needs, and say why the rest is kept.")
)
@click.option(
    "--dry-run", cls=Option, is_flag=True, help=mark("Show what would be freed, free nothing.")
)
@output_options
@pass_session
def command(session: Session, *, dry_run: bool, output: Output) -> None:
    """Collects."""
    report = session.client.gc(dry_run=dry_run)
    output.emit(report, ids=[item.name for item in report.removed], text=lambda: _lines(report))


def _lines(report: GcReport) -> Iterator[str]:
    removed = translate(mark("would remove") if report.dry_run else mark("removed"))
    kept = translate(mark("kept"))
    rows = [_row(removed, item) for item in report.removed]
    rows += [_row(kept, item) for item in report.kept]
    if rows:
        yield from table(_HEADS, rows, right=(3,))
    text = mark("{size} would be freed") if report.dry_run else mark("{size} freed")
    yield translate(text, size=size(report.bytes_freed))


def _row(action: str, item: GcItem) -> tuple[str, ...]:
    why = "; ".join(translate(each.template, **each.values) for each in item.why)
    name = item.name[:24]
    if item.count > 1:
        name = translate(mark("{count} blobs"), count=item.count)
    return action, item.kind, name, size(item.bytes), why or item.reason
