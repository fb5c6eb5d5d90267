"""``zhcache completion SHELL``: the script that makes the shell complete commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from zhcache.cli.base import Command
from zhcache.errors import UsageError
from zhcache.i18n import mark


@click.command(
    "completion",
    cls=Command,
    help=mark('Print a completion script: eval "$(zhcache completion bash)".'),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Prints the script."""
    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError("there is no completion for {shell}", shell=shell)
    root = ctx.find_root().command
    click.echo(kind(root, {}, "zhcache", "_ZHCACHE_COMPLETE").source())
