"""``zhcache bench variants REPO``: what each variant does to the pictures, and to the time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.picture import Place
from zhcache.cli.run import Size
from zhcache.cli.table import table
from zhcache.errors import NotFound, UsageError
from zhcache.i18n import mark, translate
from zhcache.progress import size as shown_size
from zhcache.protocol.messages import SnapshotDetail, VariantResult

if TYPE_CHECKING:
    from zhcache.evaluate.variants import Drawn, Plan

_HEADS = (
    mark("VARIANT"), mark("SIZE"), mark("OF SOURCE"), "PSNR dB", "SSIM", mark("LATENTS"),
    mark("SECONDS"),
)  # fmt: skip


class Benched(msgspec.Struct, kw_only=True):
    """What ``bench variants --json`` prints. Each variant carries its ``quality``."""

    repo: str
    commit: str
    bytes: int
    prompts: list[str]
    seeds: list[int]
    variants: dict[str, VariantResult]
    picture: str | None = None
    schema: int = 1


class _Group(click.Group, Command):
    pass


@click.group("bench", cls=_Group, help=mark("Measure a model's variants."))
def command() -> None:
    """Groups what is measured."""


@command.command(
    "variants",
    cls=Command,
    help=mark("Compare variants with their source, using the same prompts and seeds."),
)
@click.argument("repo")
@click.option(
    "--variant",
    "wanted",
    cls=Option,
    metavar="V",
    multiple=True,
    help=mark("Only this variant; may be repeated."),
)
@click.option("--prompt", "prompts", cls=Option, metavar="TEXT", multiple=True,
              help=mark("Instead of the built-in ones; may be repeated."))  # fmt: skip
@click.option("--seeds", cls=Option, type=click.IntRange(1, 1000), default=4,
              help=mark("Images for each prompt."))  # fmt: skip
@click.option(
    "--steps", cls=Option, type=click.IntRange(1), help=mark("Denoising steps for each image.")
)
@click.option(
    "--size",
    cls=Option,
    type=Size(),
    metavar="WxH",
    help=mark("Width and height in pixels, such as 768x512."),
)
@click.option("--device", cls=Option, metavar="D", default="auto", help=mark("auto, cpu, cuda:N."))
@click.option("--revision", cls=Option, metavar="R", help=mark("Branch, tag or commit."))
@click.option("--picture", cls=Option, metavar="FILE",
              help=mark("Write all images side by side into this PNG file."))  # fmt: skip
@output_options
@pass_session
def variants(
    session: Session,
    *,
    repo: str,
    wanted: Sequence[str],
    prompts: Sequence[str],
    seeds: int,
    revision: str | None,
    device: str,
    picture: str | None,
    output: Output,
    **options: Any,
) -> None:
    """Draws with the source and with each variant in turn, keeps what was found with them."""
    place = Place(picture, repo.rpartition("/")[2], 1) if picture else None
    snapshot = session.client.show(repo, revision=revision)
    chosen = _chosen(snapshot, wanted)
    from zhcache.evaluate.variants import PROMPTS, Plan, sheet

    plan = Plan(
        prompts=prompts or PROMPTS,
        seeds=range(seeds),
        steps=options["steps"],
        size=options["size"],
    )
    drawn = {name: _draw(snapshot, name, device, plan, output) for name in (None, *chosen)}
    benched = Benched(
        repo=snapshot.repo,
        commit=snapshot.commit,
        bytes=snapshot.bytes,
        prompts=list(plan.prompts),
        seeds=list(plan.seeds),
        variants=_judged(session, snapshot, device, plan, drawn),
    )
    if place is not None:
        columns = {name: drawn[name] for name in chosen}
        saved = place.save(sheet(drawn[None], columns), 0, {"repo": snapshot.repo})
        benched.picture = str(saved)
    output.emit(benched, ids=chosen, text=lambda: _lines(benched))


def _chosen(snapshot: SnapshotDetail, wanted: Sequence[str]) -> list[str]:
    chosen = list(dict.fromkeys(wanted)) or list(snapshot.variants)
    lacking = [name for name in chosen if name not in snapshot.variants]
    if lacking or not chosen:
        raise NotFound(
            "{repo} has no variant {variant} here",
            hint="zhcache prefetch {repo} --variant {variant}",
            repo=snapshot.repo,
            variant=lacking[0] if lacking else "fp16",
        )
    return chosen


def _draw(
    snapshot: SnapshotDetail, name: str | None, device: str, plan: Plan, output: Output
) -> Drawn:
    from zhcache.evaluate.variants import draw, hush
    from zhcache.pipeline.load import load_pipeline

    hush()

    def note(at: str) -> None:
        if not output.is_quiet:
            shown = name or translate(mark("the source"))
            text = translate(mark("drawing with {variant}: {at}"), variant=shown, at=at)
            click.echo(text, err=True)

    loaded: Any = load_pipeline(snapshot.repo, name, snapshot.commit, device=device, chinese=None)
    with loaded as pipeline:
        return draw(pipeline, plan, note)


def _judged(
    session: Session,
    snapshot: SnapshotDetail,
    device: str,
    plan: Plan,
    drawn: dict[str | None, Drawn],
) -> dict[str, VariantResult]:
    from zhcache.evaluate.variants import compare

    found: dict[str, VariantResult] = {}
    source = drawn[None]
    for name, made in drawn.items():
        if name is None:
            continue
        quality = msgspec.structs.replace(
            compare(source, made),
            device=device,
            steps=plan.steps,
            width=made.images[0].width,
            height=made.images[0].height,
        )
        kept = session.client.keep_quality(snapshot.repo, snapshot.commit, name, quality)
        found[name] = msgspec.structs.replace(snapshot.variants[name], quality=kept)
    return found


def _lines(benched: Benched) -> Iterator[str]:
    yield from table(
        _HEADS, [_row(name, made, benched.bytes) for name, made in benched.variants.items()],
        right=range(1, len(_HEADS)),
    )  # fmt: skip
    if benched.picture is not None:
        yield benched.picture


def _row(name: str, made: VariantResult, source_bytes: int) -> tuple[str, ...]:
    found = made.quality
    if found is None:
        raise UsageError("nothing was measured")
    return (
        name,
        shown_size(made.bytes),
        f"{made.bytes / source_bytes:.2f}" if source_bytes else "-",
        "=" if found.psnr is None else f"{found.psnr:.1f}",
        f"{found.ssim:.4f}",
        "-" if found.latent_cosine is None else f"{found.latent_cosine:.5f}",
        f"{found.seconds:.2f} / {found.seconds_source:.2f}",
    )
