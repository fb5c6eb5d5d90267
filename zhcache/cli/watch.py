"""``zhcache watch``: folders whose models are taken in as they change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.outcomes import Outcomes
from zhcache.cli.table import table
from zhcache.i18n import hint_of, mark, message_of, translate
from zhcache.progress import size
from zhcache.protocol.failure import to_error
from zhcache.protocol.messages import ErrorInfo
from zhcache.protocol.watch import Watched, WatchedFolder, WatchedModel

_HEADS = (mark("MODEL"), mark("STATE"), mark("SIZE"), mark("WHERE"), mark("WHY"))
_STATES = {
    "settling": mark("still changing"),
    "waiting": mark("incomplete"),
    "taking": mark("being taken in"),
    "taken": mark("taken in"),
    "refused": mark("refused"),
    "failed": mark("failed, tried again"),
    "removed": mark("removed from the store"),
}


class Unwatched(msgspec.Struct, kw_only=True):
    """What ``watch rm --json`` prints."""

    folder: str
    schema: int = 1


class _Group(click.Group, Command):
    pass


@click.group(
    "watch",
    cls=_Group,
    help=mark("Import the models that are in a folder, and those put there later."),
)
def command() -> None:
    """Groups the three."""


@command.command(
    "add", cls=Command, help=mark("Watch folders; the models in them are imported into the store.")
)
@click.argument(
    "folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@output_options
@pass_session
def add(session: Session, folders: Sequence[Path], output: Output) -> int:
    """Watches each."""
    outcomes = Outcomes(session, output)
    for folder in folders:
        with outcomes.attempt():
            added = session.client.watch(folder)
            said = translate(mark("{folder} is watched"), folder=added.folder)
            output.emit(added, ids=[added.folder], text=[said].copy)
    return outcomes.exit_code


@command.command(
    "rm", cls=Command, help=mark("Stop watching folders; models that were imported stay.")
)
@click.argument(
    "folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@output_options
@pass_session
def remove(session: Session, folders: Sequence[Path], output: Output) -> int:
    """Takes each off the list."""
    outcomes = Outcomes(session, output)
    for folder in folders:
        with outcomes.attempt():
            session.client.unwatch(folder)
            named = str(folder.expanduser().absolute())
            said = translate(mark("{folder} is not watched any more"), folder=named)
            output.emit(Unwatched(folder=named), ids=[named], text=[said].copy)
    return outcomes.exit_code


@command.command("ls", cls=Command, help=mark("List watched folders and what is in them."))
@output_options
@pass_session
def show(session: Session, output: Output) -> None:
    """Lists the folders and how each model in them stands."""
    folders = session.client.watched()
    output.emit(
        Watched(folders=folders),
        ids=[one.folder for one in folders],
        text=lambda: (line for one in folders for line in _lines(one)),
    )


def _lines(one: WatchedFolder) -> Iterator[str]:
    yield one.folder
    if one.reason is not None:
        yield f"  {_told(one.reason)}"
    if one.polling is not None:
        yield f"  {_told(one.polling)}"
    if one.models:
        rows = [_row(model) for model in one.models]
        yield from (f"  {line}" for line in table(_HEADS, rows, right=(2,)))


def _row(model: WatchedModel) -> tuple[str, ...]:
    return (
        model.repo or "-",
        translate(_STATES[model.state]),
        size(model.bytes),
        model.where,
        _why(model),
    )


def _why(model: WatchedModel) -> str:
    if model.reason is not None:
        return _told(model.reason)
    if model.skipped:
        text = mark("{count} files are left out: links out of the folder, or no plain files")
        return translate(text, count=model.skipped)
    return ""


def _told(info: ErrorInfo) -> str:
    error = to_error(info)
    return f"{message_of(error)} ({hint_of(error)})" if error.hint else message_of(error)
