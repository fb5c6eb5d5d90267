"""``zhcache sources``: each source's health and rate; ``sources test`` asks them now."""

from __future__ import annotations

from collections.abc import Iterable

import click

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.table import table
from zhcache.errors import SourcesFailed
from zhcache.i18n import mark, message_of, translate
from zhcache.progress import size
from zhcache.protocol.failure import to_error
from zhcache.protocol.messages import ErrorInfo, SourceInfo, Sources
from zhcache.protocol.probe import SourcesTested, SourceTested
from zhcache.protocol.sources import MEASURED, Phrase

_HEADS = (
    mark("NAME"),
    mark("KIND"),
    mark("ENDPOINT"),
    mark("STATE"),
    mark("RATE"),
    mark("WHY"),
)
_TESTED_HEADS = (
    mark("NAME"),
    mark("STATE"),
    mark("ANSWERS IN"),
    mark("BYTES FROM"),
    mark("RATE"),
    mark("REMARKS"),
)
_STATES = {
    "unknown": mark("unknown"),
    "ok": mark("ok"),
    "slow": mark("slow"),
    "down": mark("down"),
    "lying": mark("lying"),
    "limited": mark("limited"),
}


class _Group(click.Group, Command):
    pass


@click.group(
    "sources",
    cls=_Group,
    invoke_without_command=True,
    help=mark("Show each source's health and measured rate."),
)
@output_options
@pass_session
@click.pass_context
def command(ctx: click.Context, session: Session, output: Output) -> None:
    """Lists the sources in the order they would be tried."""
    if ctx.invoked_subcommand is not None:
        return
    sources = session.client.sources()
    output.emit(
        Sources(sources=sources),
        ids=[source.name for source in sources],
        text=lambda: table(_HEADS, [_row(source) for source in sources], right=(4,)),
    )


@command.command(
    "test", cls=Command, help=mark("Test each source now: does it answer, does it send data?")
)
@click.argument("name", required=False)
@output_options
@pass_session
def test(session: Session, name: str | None, output: Output) -> int:
    """Tests; exit code 10 if none works."""
    tested = session.client.test_sources(name)
    output.emit(
        SourcesTested(sources=tested),
        ids=[source.name for source in tested if source.works],
        text=lambda: table(_TESTED_HEADS, [_tested(source) for source in tested], right=(2, 4)),
    )
    return 0 if any(source.works for source in tested) else SourcesFailed.exit_code


def _row(source: SourceInfo) -> tuple[str, ...]:
    return (
        source.name,
        source.kind,
        source.endpoint,
        translate(_STATES[source.state]),
        f"{size(source.rate)}/s" if source.rate else "-",
        _why(source) or "-",
    )


def _why(source: SourceInfo) -> str:
    """Returns why a source stands where it does, and its last error where that says more."""
    why, error = _said(source.reasons), _error(source.error)
    if not error or error in why:
        return why
    last = translate(mark("last error: {error}"), error=error)
    return f"{why}; {last}" if why else last


def _tested(source: SourceTested) -> tuple[str, ...]:
    return (
        source.name,
        translate(_STATES[source.state]),
        f"{source.latency:.2f} s" if source.latency is not None else "-",
        source.plane or "-",
        f"{size(source.rate)}/s" if source.rate else "-",
        _error(source.error) or _said(source.reasons) or "-",
    )


def _said(reasons: Iterable[Phrase]) -> str:
    said = (phrase for phrase in reasons if phrase.template != MEASURED)
    return "; ".join(translate(phrase.template, **phrase.values) for phrase in said)


def _error(error: ErrorInfo | None) -> str:
    return message_of(to_error(error)) if error else ""
