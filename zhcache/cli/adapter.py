"""``zhcache adapter``: small networks that read Chinese for a base model."""

from __future__ import annotations

import click

from zhcache.cli import adapter_held, adapter_train
from zhcache.cli.base import Command
from zhcache.i18n import mark


class _Group(click.Group, Command):
    pass


@click.group("adapter", cls=_Group, help=mark("Adapters that read Chinese for a model."))
def command() -> None:
    """Groups what is done with them."""


command.add_command(adapter_train.command)
command.add_command(adapter_held.ls)
command.add_command(adapter_held.export)
