"""``zhcache ps``: what is leased or warm."""

from __future__ import annotations

import click

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.table import table, when
from zhcache.i18n import mark
from zhcache.progress import size
from zhcache.protocol.messages import Residents

_HEADS = (
    mark("REPO"),
    mark("VARIANT"),
    mark("DEVICE"),
    mark("SIZE"),
    mark("LEASES"),
    mark("USER"),
    mark("EXPIRES"),
)


@click.command("ps", cls=Command, help=mark("List models in use: owner, device, bytes, leases."))
@output_options
@pass_session
def command(session: Session, output: Output) -> None:
    """Lists what is in use."""
    resident = session.client.resident()
    output.emit(
        Residents(resident=resident),
        ids=dict.fromkeys(model.repo for model in resident),
        text=lambda: table(
            _HEADS,
            [
                (
                    model.repo,
                    model.variant or "-",
                    model.device,
                    size(model.bytes),
                    str(model.leases),
                    str(model.uid),
                    when(model.expires),
                )
                for model in resident
            ],
            right=(3, 4),
        ),
    )
