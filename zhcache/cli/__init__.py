"""The command line. Entry point ``main``; one file for each command, loaded when it is named."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from gc import freeze
from importlib import import_module
from typing import Any, NoReturn

import click

from zhcache import __version__
from zhcache.cli.base import Command, Option, Session
from zhcache.cli.report import discard_stdout, report
from zhcache.errors import Cancelled, NoSpace, UsageError, ZhcacheError
from zhcache.i18n import LANGUAGES, language_of, mark, translate, use

COMMANDS = {
    "prefetch": "prefetch",
    "ls": "ls",
    "show": "show",
    "du": "du",
    "path": "path",
    "rm": "rm",
    "pin": "pin",
    "unpin": "unpin",
    "gc": "gc",
    "verify": "verify",
    "repair": "repair",
    "ps": "ps",
    "plan": "plan",
    "warm": "warm",
    "stop": "stop",
    "run": "run",
    "exec": "exec",
    "jobs": "jobs",
    "wait": "wait",
    "cancel": "cancel",
    "logs": "logs",
    "sources": "sources",
    "lock": "lock",
    "import": "import_",
    "watch": "watch",
    "follow": "follow",
    "unfollow": "unfollow",
    "export": "export",
    "serve": "serve",
    "adapter": "adapter",
    "eval": "eval",
    "prompt": "prompt",
    "bench": "bench",
    "monitor": "monitor",
    "daemon": "daemon",
    "doctor": "doctor",
    "completion": "completion",
}
"""Each command and the module of this package that holds it, as ``command``."""

ALIASES = {"pull": "prefetch"}


class Commands(click.Group):
    """Loads a command's module when it is named, so that ``ls`` does not pay for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names in the order of the manual."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns the command of that name or alias."""
        module = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if module is None:
            return None
        return import_module(f"zhcache.cli.{module}").command

    def get_help(self, ctx: click.Context) -> str:
        """Returns the help in the reader's language."""
        self.help = translate(_HELP)
        return super().get_help(ctx)


_HELP = mark(
    "One verified copy of every model, shared by everybody on this machine.\n\n"
    "Start with: zhcache prefetch OWNER/NAME"
)


def _asked(args: Sequence[str]) -> str | None:
    """Returns the language that the options before the command ask for."""
    for number, word in enumerate(args):
        if not word.startswith("-"):
            return None
        name, _, value = word.partition("=")
        if name == "--lang":
            asked = value or "".join(args[number + 1 : number + 2])
            return asked if asked in LANGUAGES else None
    return None


def _choose_language(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        use(value)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"zhcache {__version__}")
        ctx.exit()


@click.command(
    cls=Commands,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--lang",
    cls=Option,
    type=click.Choice(LANGUAGES),
    is_eager=True,
    expose_value=False,
    callback=_choose_language,
    help=mark("Language of texts; by default that of the locale."),
)
@click.option("--debug", cls=Option, is_flag=True, help=mark("Show tracebacks."))
@click.option(
    "--no-spawn",
    cls=Option,
    is_flag=True,
    help=mark("Never start a daemon; fail when none answers."),
)
@click.option(
    "--version",
    cls=Option,
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help=mark("Show the version and exit."),
)
@click.pass_context
def cli(ctx: click.Context, *, debug: bool, no_spawn: bool) -> None:
    """Sets up what every command shares."""
    ctx.obj = Session(spawn=not no_spawn, debug=debug)
    ctx.call_on_close(ctx.obj.close)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with the code its outcome has in the contract."""
    code = run(list(sys.argv[1:] if args is None else args))
    # The memory goes as a whole: to look through it for garbage first is a fifth of what a short
    # command takes. (Not by its module's name, which is that of a command here.)
    freeze()
    sys.exit(code)


def run(args: list[str]) -> int:
    """Runs one command and returns its exit code; prints errors, never a traceback unasked."""
    # Before click parses anything: it translates some of its own words while it does.
    use(_asked(args) or language_of(os.environ))
    is_json = "--json" in args
    try:
        outcome: Any = cli.main(args, prog_name="zhcache", standalone_mode=False)
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else 0
    except BrokenPipeError:
        # The reader went away (`| head`).
        discard_stdout()
        return 0
    except (KeyboardInterrupt, click.Abort):
        if is_json:
            return report(Cancelled("interrupted"), is_json=True)
        return Cancelled.exit_code
    except click.ClickException as error:
        return _usage(error, is_json=is_json)
    except ZhcacheError as error:
        if "--debug" in args:
            traceback.print_exc()
        return report(error, is_json=is_json)
    except Exception as error:  # noqa: BLE001 - the outermost door: a defect is told, not thrown
        if "--debug" in args:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return report(
                NoSpace(
                    "no room for what is to be written: {reason}",
                    hint="make room, or write to another place",
                    reason=error.strerror,
                ),
                is_json=is_json,
            )
        kind = type(error).__name__
        return report(
            ZhcacheError(
                "zhcache has a defect: {kind}: {reason}",
                hint="run it again as `zhcache --debug ...` and report what it prints",
                kind=kind,
                reason=error,
            ),
            is_json=is_json,
        )


def _usage(error: click.ClickException, *, is_json: bool) -> int:
    if is_json:
        return report(UsageError(error.format_message()), is_json=True)
    error.show()
    return UsageError.exit_code


__all__ = ["ALIASES", "COMMANDS", "Command", "cli", "main", "run"]
