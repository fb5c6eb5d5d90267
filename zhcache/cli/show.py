"""``zhcache show REPO``: one snapshot with its files."""

from __future__ import annotations

from collections.abc import Iterator

import click

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.table import named, printable, table, when
from zhcache.i18n import mark, translate
from zhcache.progress import size
from zhcache.protocol.messages import SnapshotDetail
from zhcache.protocol.variants import Quality, VariantPart

_PARTS = (
    mark("COMPONENT"), mark("SCHEME"), mark("WAS"), mark("IS"), mark("RELATIVE ERROR"),
    mark("LARGEST"), mark("OVERFLOW"), mark("NOT FINITE"),
)  # fmt: skip
_HEADS = (mark("PATH"), mark("SIZE"), "SHA256", mark("TRUST"))


@click.command("show", cls=Command, help=mark("Show one snapshot: files, hashes, variants, trust."))
@click.argument("repo")
@click.option("--variant", cls=Option, metavar="V", help=mark("A variant instead of the original."))
@click.option("--revision", cls=Option, metavar="R", help=mark("Branch, tag or commit."))
@output_options
@pass_session
def command(
    session: Session, repo: str, variant: str | None, revision: str | None, output: Output
) -> None:
    """Shows one snapshot."""
    snapshot = session.client.show(repo, variant=variant, revision=revision)
    output.emit(snapshot, ids=[file.path for file in snapshot.files], text=lambda: _lines(snapshot))


def _lines(snapshot: SnapshotDetail) -> Iterator[str]:
    facts = (
        (mark("Repository"), snapshot.repo),
        (mark("Commit"), snapshot.commit),
        *([(mark("Variant"), snapshot.variant)] if snapshot.variant else []),
        (mark("Revisions"), ", ".join(snapshot.revisions) or "-"),
        (mark("Path"), snapshot.path),
        (mark("Size"), size(snapshot.bytes)),
        (mark("Trust"), snapshot.trust),
        (mark("Source"), snapshot.source or "-"),
        (mark("Fetched"), when(snapshot.created)),
        (mark("Pinned"), translate(mark("yes") if snapshot.pinned else mark("no"))),
        (mark("Complete"), translate(mark("yes") if snapshot.complete else mark("no"))),
    )
    for name, value in facts:
        yield f"{translate(name)}: {value}"
    for name, variant in snapshot.variants.items():
        shown = f"{named(name, variant)} {size(variant.bytes)} {variant.path}"
        yield f"{translate(mark('Variant'))}: {shown}"
        if variant.quality is not None:
            yield f"  {_told(variant.quality)}"
    if snapshot.parts:
        yield ""
        yield from table(_PARTS, map(_part, snapshot.parts.items()), right=range(2, len(_PARTS)))
        for name, part in snapshot.parts.items():
            for module, why in part.kept.items():
                text = mark("{module} stayed wider: {why}")
                yield printable(translate(text, module=f"{name}.{module}", why=why))
    yield ""
    yield from table(
        _HEADS,
        [(file.path, size(file.size), file.sha256, file.trust) for file in snapshot.files],
        right=(1,),
    )


def _part(named: tuple[str, VariantPart]) -> tuple[str, ...]:
    name, part = named
    return (
        name,
        part.scheme,
        size(part.bytes_in),
        size(part.bytes_out),
        f"{part.relative:.2g}",
        f"{part.max_abs:.2g}",
        str(part.overflow),
        str(part.nonfinite_in),
    )


def _told(quality: Quality) -> str:
    text = mark(
        "measured {when} by uid {uid}, {pairs} images:"
        " PSNR {psnr} dB, SSIM {ssim}, latents {latents}"
    )
    latents = quality.latent_cosine
    return translate(
        text,
        when=when(quality.measured),
        uid=quality.uid,
        pairs=quality.pairs,
        psnr="=" if quality.psnr is None else f"{quality.psnr:.1f}",
        ssim=f"{quality.ssim:.4f}",
        latents="-" if latents is None else f"{latents:.5f}",
    )
