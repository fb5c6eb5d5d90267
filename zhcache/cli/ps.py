"""``zhcache ps``: what is leased or warm."""

from __future__ import annotations

from collections.abc import Sequence

import click

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.table import table, when
from zhcache.i18n import mark
from zhcache.progress import size
from zhcache.protocol.messages import Resident, Residents

_HEADS = (
    mark("REPO"),
    mark("VARIANT"),
    mark("DEVICE"),
    mark("MODE"),
    mark("SIZE"),
    mark("IN MEMORY"),
    mark("LEASES"),
    mark("CALLS"),
    mark("USER"),
    mark("EXPIRES"),
)
_UUID_SHOWN = 12


@click.command(
    "ps",
    cls=Command,
    help=mark("List the models in memory or in use: where, how large, by whom, until when."),
)
@output_options
@pass_session
def command(session: Session, output: Output) -> None:
    """Lists what is in use."""
    resident = session.client.resident()
    output.emit(
        Residents(resident=resident),
        ids=dict.fromkeys(model.repo for model in resident),
        text=lambda: [
            *table(_HEADS, [_row(model) for model in resident], right=(4, 5, 6, 7)),
            *(f"{model.repo}: {model.note}" for model in resident if model.note),
        ],
    )


def _row(model: Resident) -> Sequence[str]:
    held = "-" if model.bytes_resident is None else size(model.bytes_resident)
    return (
        model.repo,
        model.variant or "-",
        # As much of a GPU's UUID as tells it from the others of a machine.
        model.device[:_UUID_SHOWN],
        model.mode if model.role == "pipeline" else model.role,
        size(model.bytes),
        # Locked pages cannot leave.
        f"{held} *" if model.locked else held,
        str(model.leases),
        f"{model.running}+{model.queued}" if model.mode == "resident" else "-",
        str(model.uid),
        when(model.expires),
    )
