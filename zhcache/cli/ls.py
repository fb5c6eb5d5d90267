"""``zhcache ls``: the snapshots that are held."""

from __future__ import annotations

import click

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.table import named, table
from zhcache.i18n import mark
from zhcache.progress import size
from zhcache.protocol.messages import Snapshots

HEADS = (
    mark("REPO"),
    mark("REVISION"),
    mark("COMMIT"),
    mark("FILES"),
    mark("SIZE"),
    mark("TRUST"),
    mark("VARIANTS"),
)


@click.command("ls", cls=Command, help=mark("List the snapshots in the store."))
@output_options
@pass_session
def command(session: Session, output: Output) -> None:
    """Lists what is held."""
    held = session.client.snapshots()
    output.emit(
        Snapshots(snapshots=held),
        ids=dict.fromkeys(snapshot.repo for snapshot in held),
        text=lambda: table(
            HEADS,
            [
                (
                    snapshot.repo,
                    ",".join(snapshot.revisions) or "-",
                    snapshot.commit[:12],
                    str(snapshot.files_count),
                    size(snapshot.bytes),
                    snapshot.trust,
                    ", ".join(named(*item) for item in snapshot.variants.items()) or "-",
                )
                for snapshot in held
            ],
            right=(3, 4),
        ),
    )
