"""``zhcache plan REPO``: where a pipeline would be placed, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from zhcache.calls.placement import MAX_BATCH
from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.run import Size
from zhcache.cli.table import table
from zhcache.i18n import mark, translate
from zhcache.placement.sizes import bytes_of
from zhcache.placement.ways import KINDS
from zhcache.progress import size as shown
from zhcache.protocol.placement import Placed, PlacedComponent

_PARTS = (mark("COMPONENT"), mark("SIZE"), mark("DEVICE"), mark("HOW"))
_DEVICES = (mark("DEVICE"), mark("TOTAL"), mark("FREE"), mark("PLANNED"))
_USES = {
    "whole": mark("whole"),
    "copy": mark("one on each"),
    "shard": mark("in pieces"),
    "streamed": mark("from host memory, layer by layer"),
}


class Took(click.ParamType):
    """``WxH=SIZE``."""

    name = "took"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[int, int], int]:
        """Returns width and height, and bytes."""
        if isinstance(value, tuple):
            return value
        pixels, _, took = str(value).partition("=")
        count = bytes_of(took)
        if count is None:
            text = mark("{value} is not a size and bytes such as 1024x1024=3GiB")
            self.fail(translate(text, value=repr(value)), param, ctx)
        return Size().convert(pixels, param, ctx), count


@click.command(
    "plan",
    cls=Command,
    help=mark("Show on which devices a pipeline would be placed, and why; nothing is loaded."),
)
@click.argument("repo")
@click.option("--variant", cls=Option, metavar="V", help=mark("Use this variant."))
@click.option("--revision", cls=Option, metavar="R", help=mark("Branch, tag or commit."))
@click.option(
    "--devices",
    cls=Option,
    metavar="D,D",
    help=mark(
        "cpu, cuda:0,cuda:1, or sizes of GPUs that are not here: 24GiB,24GiB or"
        " 80GiB,80GiB@nvlink; by default the GPUs that are here."
    ),
)
@click.option(
    "--size",
    cls=Option,
    type=Size(),
    metavar="WxH",
    help=mark("Width and height in pixels, such as 768x512."),
)
@click.option(
    "--batch",
    cls=Option,
    type=click.IntRange(1, MAX_BATCH),
    default=1,
    help=mark("Images made in one call."),
)
@click.option(
    "--placement",
    cls=Option,
    type=click.Choice(("auto", *KINDS)),
    default="auto",
    help=mark(
        "Plan only this placement, or say why it is not possible; by default the best "
        "one other than parallel."
    ),
)
@click.option(
    "--seen",
    cls=Option,
    type=Took(),
    metavar="WxH=SIZE",
    multiple=True,
    help=mark(
        "Memory that a call for one image needed besides the weights, as in 1024x1024=3GiB; "
        "may be repeated. By default what the daemon's workers measured."
    ),
)
@click.option(
    "--host-memory",
    cls=Option,
    metavar="SIZE",
    help=mark(
        "Free memory of the host besides the GPUs, such as 128GiB; by default what is free here."
    ),
)
@output_options
@pass_session
def command(
    session: Session,
    *,
    repo: str,
    variant: str | None,
    revision: str | None,
    devices: str | None,
    size: tuple[int, int] | None,
    batch: int,
    placement: str,
    seen: Sequence[tuple[tuple[int, int], int]],
    host_memory: str | None,
    output: Output,
) -> None:
    """Plans it."""
    found = session.client.plan(
        repo,
        variant=variant,
        revision=revision,
        devices=devices,
        size=size,
        batch=batch,
        placement=placement,
        seen=dict(seen) or None,
        host_memory=host_memory,
    )
    output.emit(found, ids=[found.placement], text=lambda: _lines(found))


def _lines(found: Placed) -> Iterator[str]:
    name = f"{found.repo} ({found.variant})" if found.variant else found.repo
    wide, high = found.size
    yield translate(
        mark("{repo}: {placement}, for {width}x{height} and {batch} at once"),
        repo=name,
        placement=found.placement,
        width=wide,
        height=high,
        batch=found.batch,
    )
    for phrase in found.phrases:
        yield f"  {translate(phrase.template, **phrase.values)}"
    yield ""
    yield from table(_PARTS, map(_part, found.components.items()), right=(1,))
    yield ""
    rows = [(d.name, shown(d.total), shown(d.free), shown(d.bytes)) for d in found.devices]
    yield from table(_DEVICES, rows, right=(1, 2, 3))
    if found.rejected:
        yield ""
        yield translate(mark("Other ways:"))
    for other in found.rejected:
        how = f"{other.placement} ({other.how})" if other.how else other.placement
        yield f"  {how}: {translate(other.phrase.template, **other.phrase.values)}"


def _part(named: tuple[str, PlacedComponent]) -> Sequence[str]:
    name, one = named
    return name, shown(one.bytes), ", ".join(one.devices), translate(_USES[one.use])
