"""``zhcache exec SCRIPT``: a script in a process that has torch and diffusers already imported."""

from __future__ import annotations

import click

from zhcache.cli.base import Command
from zhcache.errors import UsageError
from zhcache.i18n import mark

_FORMS = {"-m": "module", "-c": "command"}


@click.command(
    "exec",
    cls=Command,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="",
    help=mark(
        "Run a script, or with -m a module or -c code, as python does, in a process that has torch"
        " and diffusers already imported.\n\nThe first run of an environment imports them. The"
        " script reads and writes the terminal, but /dev/tty cannot be opened: none controls it."
    ),
)
@click.argument("script")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(script: str, args: tuple[str, ...]) -> None:
    """Runs it and ends as it ends."""
    from zhcache.forkserver.client import run

    if script not in _FORMS:
        if script.startswith("-"):
            raise UsageError(
                "{option} is no option of exec", hint="python's own options are not taken",
                option=script,
            )  # fmt: skip
        run("file", script, args)
    if not args:
        raise UsageError("{option} needs an argument", option=script)
    run("module" if script == "-m" else "command", args[0], args[1:])
