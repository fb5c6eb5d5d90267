"""What every command shares: the session, the output options, texts in the reader's language."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
import msgspec

from zhcache.cli.report import json_line
from zhcache.client import Client
from zhcache.i18n import mark, translate

F = TypeVar("F", bound=Callable[..., Any])


class Option(click.Option):
    """An option whose help is translated when it is shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Returns the names and the help in the reader's language."""
        source, self.help = self.help, translate(self.help or "")
        try:
            return super().get_help_record(ctx)
        finally:
            self.help = source


class Command(click.Command):
    """A command whose help is translated when it is shown."""

    def get_short_help_str(self, limit: int = 45) -> str:
        """Returns the first sentence in the reader's language."""
        return translate(self.help or "").partition("\n")[0].rstrip(".。")

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the help in the reader's language."""
        source, self.help = self.help, translate(self.help or "")
        try:
            super().format_help_text(ctx, formatter)
        finally:
            self.help = source


class Session:
    """One run of the command line.

    Args:
        spawn: Whether a daemon may be started.
        debug: Whether tracebacks are wanted.
    """

    def __init__(self, *, spawn: bool = True, debug: bool = False) -> None:
        self.debug = debug
        self._spawn = spawn
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client of this run."""
        if self._client is None:
            self._client = Client(spawn=self._spawn)
        return self._client

    def close(self) -> None:
        """Closes the client's connections."""
        if self._client is not None:
            self._client.close()


class Output:
    """Where results go and in what form.

    Args:
        is_json: One JSON object a result.
        is_quiet: Only what names the results.
    """

    def __init__(self, *, is_json: bool, is_quiet: bool) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet

    def emit(
        self, message: msgspec.Struct, *, ids: Iterable[str], text: Callable[[], Iterable[str]]
    ) -> None:
        """Prints one result in the form that was asked for.

        Args:
            message: The result.
            ids: What names it, or what it lists; for ``-q``.
            text: Makes the lines a person reads.
        """
        if self.is_json:
            click.echo(json_line(message))
            return
        for line in ids if self.is_quiet else text():
            click.echo(line)

    def say(self, text: str, **values: object) -> None:
        """Tells the person something beside the result, on stderr, unless only ids are wanted."""
        if not self.is_quiet:
            click.echo(translate(text, **values), err=True)


def output_options(function: F) -> F:
    """Gives a command ``--json`` and ``-q`` and passes them on as one ``output``."""

    @click.option("--json", "is_json", cls=Option, is_flag=True, help=mark("Print JSON."))
    @click.option(
        "-q",
        "--quiet",
        "is_quiet",
        cls=Option,
        is_flag=True,
        help=mark("Print only ids, one per line."),
    )
    @functools.wraps(function)
    def wrapped(*args: Any, is_json: bool, is_quiet: bool, **options: Any) -> Any:
        return function(*args, output=Output(is_json=is_json, is_quiet=is_quiet), **options)

    return wrapped  # pyright: ignore[reportReturnType]


pass_session = click.make_pass_decorator(Session)
