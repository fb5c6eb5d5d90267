"""``zhcache run REPO PROMPT...``: images from the shell, through a resident pipeline."""

from __future__ import annotations

import secrets
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import click
import msgspec

from zhcache.chinese.report import ChineseReport, ChineseWarning
from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.drawn import Drawn, Image
from zhcache.cli.picture import STDOUT, Place
from zhcache.cli.presence import ensure
from zhcache.cli.report import report
from zhcache.cli.steps import Steps
from zhcache.errors import (
    DaemonUnreachable,
    Incomplete,
    NotFound,
    Partial,
    UsageError,
    ZhcacheError,
)
from zhcache.i18n import mark, translate
from zhcache.protocol.placement import Kind

MAX_NUMBER = 10_000
MAX_SIDE = 16_384
_RANDOM_SEEDS = 2**32


class Ran(msgspec.Struct, kw_only=True):
    """What ``run --json`` prints. ``devices`` are all of them where there were several.

    ``placement_report`` says where the pipeline's components are, if a plan put them there.
    """

    repo: str
    commit: str
    variant: str | None = None
    device: str
    devices: list[str] = []
    images: list[Image]
    seconds: float
    placement_report: str = ""
    schema: int = 1


class Size(click.ParamType):
    """``WxH`` in pixels."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Returns width and height."""
        if isinstance(value, tuple):
            return value
        width, cross, height = str(value).lower().replace("×", "x").partition("x")
        sides = [int(side) for side in (width, height) if side.isascii() and side.isdigit()]
        if not cross or len(sides) != 2 or not all(0 < side <= MAX_SIDE for side in sides):
            text = mark("{value} is not a size such as 512x768")
            self.fail(translate(text, value=repr(value)), param, ctx)
        return sides[0], sides[1]


@click.command(
    "run", cls=Command, help=mark("Make images; the pipeline stays ready for the next time.")
)
@click.argument("repo")
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option(
    "--negative",
    cls=Option,
    metavar="TEXT",
    help=mark("Negative prompt: what the image should not show."),
)
@click.option(
    "--seed", cls=Option, type=int, help=mark("Seed of the first image; random by default.")
)
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
@click.option("--guidance", cls=Option, type=float, help=mark("How closely to follow the prompt."))
@click.option(
    "--number",
    cls=Option,
    type=click.IntRange(1, MAX_NUMBER),
    default=1,
    help=mark("Images for each prompt; the seed goes up by one each time."),
)
@click.option(
    "--scheduler", cls=Option, metavar="CLASS", help=mark("Class name of a diffusers scheduler.")
)
@click.option(
    "--device",
    "devices",
    cls=Option,
    metavar="D",
    multiple=True,
    default=("auto",),
    help=mark("auto, cpu, cuda:N; may be repeated, for --placement."),
)
@click.option(
    "--placement",
    cls=Option,
    type=click.Choice(("auto", *get_args(Kind))),
    default="auto",
    help=mark(
        "How to use several devices; by default a worker on each, or split if no device has "
        "room for the whole model."
    ),
)
@click.option("--revision", cls=Option, metavar="R", help=mark("Branch, tag or commit."))
@click.option("--variant", cls=Option, metavar="V", help=mark("Use this variant."))
@click.option(
    "--chinese",
    cls=Option,
    metavar="ROUTE",
    default="auto",
    help=mark("auto, native, encoder, adapter:NAME, translate, or none."),
)
@click.option(
    "--keep",
    cls=Option,
    metavar="WORD",
    multiple=True,
    help=mark("Word that a translation leaves as it is; may be repeated."),
)
@click.option(
    "--output",
    "target",
    cls=Option,
    metavar="PATH",
    help=mark("Where images go: a folder, a PNG file, or - for stdout."),
)
@output_options
@pass_session
def command(
    session: Session,
    *,
    repo: str,
    prompts: Sequence[str],
    number: int,
    seed: int | None,
    target: str | None,
    output: Output,
    **options: Any,
) -> int:
    """Makes them, each in a call of its own: it is the image that its seed means."""
    wanted = list(_prompts(prompts))
    if not wanted:
        raise UsageError("there is no prompt", hint='zhcache run OWNER/NAME "a red house"')
    first = secrets.randbelow(_RANDOM_SEEDS) if seed is None else seed
    if target == STDOUT and output.is_json:
        raise UsageError(
            "the image and the JSON do not both go to stdout", hint="name a file with --output"
        )
    place = Place(target, repo.rpartition("/")[2], len(wanted) * number)
    started = time.monotonic()
    with Steps(len(wanted) * number, is_quiet=output.is_quiet) as steps:
        pipe = _open(session, repo, options, output, steps)
        with pipe:
            given = _arguments(options)
            todo = [(prompt, first + k) for prompt in wanted for k in range(number)]
            drawn = Drawn(place, _about(pipe, given), output)
            failure = _make(pipe, todo, given, steps, drawn)
    ran = Ran(
        repo=pipe.repo,
        commit=pipe.commit,
        variant=pipe.variant,
        device=pipe.device,
        devices=list(pipe.devices) if len(pipe.devices) > 1 else [],
        images=drawn.images,
        seconds=round(time.monotonic() - started, 3),
        placement_report=str(pipe.placement_report or ""),
    )
    if failure is not None:
        if not drawn.images:
            raise failure
        report(failure, is_json=output.is_json)
    if output.is_json:
        output.emit(ran, ids=(), text=tuple)
    return 0 if failure is None else Partial.exit_code


def _prompts(said: Sequence[str]) -> Iterator[str]:
    """Yields each prompt; ``-`` stands for the lines of stdin."""
    for prompt in said:
        lines = (line.strip() for line in sys.stdin) if prompt == "-" else (prompt,)
        for line in filter(None, lines):
            try:
                line.encode()
            except UnicodeEncodeError as error:
                raise UsageError(
                    "the prompt {prompt} is not text in UTF-8", prompt=ascii(line)
                ) from error
            yield line


def _open(
    session: Session, repo: str, options: dict[str, Any], output: Output, steps: Steps
) -> Any:
    """Returns the stand-in for a resident pipeline, fetched first if it is not in the store."""
    from zhcache.pipeline.options import places
    from zhcache.pipeline.placing import of_workers
    from zhcache.resident.open import open_resident

    devices, _ = places(list(options["devices"]), "resident", options["placement"])
    chosen = {name: options[name] for name in ("revision", "variant")}
    chosen["device"] = devices
    chosen["placement"] = of_workers(devices, options["placement"])
    chosen["chinese"] = None if options["chinese"] == "none" else options["chinese"]
    chosen["chinese_keep"] = options["keep"]
    try:
        return open_resident(repo, **chosen, on_progress=steps.waits, unaided=True)
    except (NotFound, Incomplete, DaemonUnreachable):
        steps.clear()
        # Only now what costs time to import: mostly the daemon is there and has the model.
        chosen["revision"] = ensure(session, repo, options["revision"], options["variant"], output)
        return open_resident(repo, **chosen, on_progress=steps.waits, unaided=True)


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    width, height = options["size"] or (None, None)
    named = {
        "negative_prompt": options["negative"],
        "num_inference_steps": options["steps"],
        "guidance_scale": options["guidance"],
        "width": width,
        "height": height,
        "scheduler": options["scheduler"],
    }
    return {name: value for name, value in named.items() if value is not None}


def _about(pipe: Any, given: dict[str, Any]) -> dict[str, str]:
    """Returns what every image's file says of how it was made."""
    about = {"repo": pipe.repo, "commit": pipe.commit, **{k: str(v) for k, v in given.items()}}
    return {**about, "variant": pipe.variant} if pipe.variant else about


def _make(
    pipe: Any,
    todo: Sequence[tuple[str, int]],
    given: dict[str, Any],
    steps: Steps,
    drawn: Drawn,
) -> ZhcacheError | None:
    """Makes and saves the images; returns what ended it early, if something did."""
    try:
        with warnings.catch_warnings():
            # Told by ``Drawn``, in the reader's language and without a line of code.
            warnings.simplefilter("ignore", ChineseWarning)
            if len(pipe.devices) > 1 and len(todo) > 1:
                _make_together(pipe, todo, given, steps, drawn)
                return None
            for prompt, seed in todo:
                with steps.image(pipe.parameters, given.get("num_inference_steps")) as callback:
                    result = pipe(prompt=prompt, seed=seed, **given, **callback)
                drawn.add(prompt, seed, result, pipe.chinese_report)
    except ZhcacheError as error:
        return error
    return None


def _make_together(
    pipe: Any,
    todo: Sequence[tuple[str, int]],
    given: dict[str, Any],
    steps: Steps,
    drawn: Drawn,
) -> None:
    """Makes the images on all devices; they are saved in order, as soon as those before are."""
    early: dict[int, tuple[Any, ChineseReport]] = {}

    def on_result(place: int, result: Any, read: ChineseReport) -> None:
        early[place] = result, read
        steps.done()
        while (place := len(drawn.images)) in early:
            drawn.add(*todo[place], *early.pop(place))

    with steps.images(pipe.parameters, given.get("num_inference_steps")) as callback:
        calls = [{"prompt": prompt, "seed": seed, **given, **callback} for prompt, seed in todo]
        try:
            pipe.several(calls, on_result)
        except ZhcacheError:
            # What was made behind the one that failed is kept as well.
            for place in sorted(early):
                drawn.add(*todo[place], *early[place])
            raise
