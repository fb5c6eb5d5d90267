"""``zhcache sources``: each source's health, measured rate, last error."""

from __future__ import annotations

import click

from zhcache.channel import error_of
from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.table import table
from zhcache.i18n import mark, message_of, translate
from zhcache.progress import size
from zhcache.protocol.messages import SourceInfo, Sources

_HEADS = (
    mark("NAME"),
    mark("KIND"),
    mark("ENDPOINT"),
    mark("STATE"),
    mark("RATE"),
    mark("LAST ERROR"),
)
_STATES = {
    "unknown": mark("unknown"),
    "ok": mark("ok"),
    "slow": mark("slow"),
    "down": mark("down"),
    "lying": mark("lying"),
    "limited": mark("limited"),
}


@click.command("sources", cls=Command, help=mark("Show each source's health and measured rate."))
@output_options
@pass_session
def command(session: Session, output: Output) -> None:
    """Lists the sources in the order they would be tried."""
    sources = session.client.sources()
    output.emit(
        Sources(sources=sources),
        ids=[source.name for source in sources],
        text=lambda: table(_HEADS, [_row(source) for source in sources], right=(4,)),
    )


def _row(source: SourceInfo) -> tuple[str, ...]:
    return (
        source.name,
        source.kind,
        source.endpoint,
        translate(_STATES[source.state]),
        f"{size(source.rate)}/s" if source.rate else "-",
        message_of(error_of(source.error)) if source.error else "-",
    )
