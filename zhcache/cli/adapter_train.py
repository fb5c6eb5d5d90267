"""``zhcache adapter train BASE --pairs FILE``: a small network that reads Chinese for a model."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from zhcache.caches.find import find
from zhcache.chinese.adapter.format import repo_of
from zhcache.chinese.adapter.plan import PRECISIONS, Plan, Trained
from zhcache.cli.attend import attend
from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.learning import Adapted, Learning
from zhcache.errors import UsageError
from zhcache.i18n import mark
from zhcache.pipeline.options import check_parts
from zhcache.protocol.messages import PrefetchResult
from zhcache.results import result_of

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    "train",
    cls=Command,
    help=mark(
        "Train an adapter that reads Chinese for a model, from parallel captions (JSON lines "
        "with en and zh), and put it into the store."
    ),
)
@click.argument("base", metavar="BASE")
@click.option(
    "--pairs",
    cls=Option,
    required=True,
    type=_FILE,
    help=mark("File of parallel captions, one JSON object per line."),
)
@click.option(
    "--name", cls=Option, required=True, help=mark("Name of the adapter; NAME means adapters/NAME.")
)
@click.option("--revision", cls=Option, metavar="R", help=mark("Revision of the base model."))
@click.option(
    "--encoder",
    cls=Option,
    metavar="REPO|DIR",
    help=mark("A Chinese BERT to start from; by default a small new one is trained on the pairs."),
)
@click.option(
    "--freeze-encoder",
    "is_frozen",
    cls=Option,
    is_flag=True,
    help=mark("Do not train that encoder."),
)
@click.option(
    "--out",
    cls=Option,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help=mark("Write the adapter to this folder too."),
)
@click.option(
    "--steps",
    cls=Option,
    type=click.IntRange(1),
    help=mark("Training steps in all; or use --epochs."),
)
@click.option(
    "--epochs",
    cls=Option,
    type=click.IntRange(1),
    help=mark("How many times to go through all pairs; or use --steps."),
)
@click.option(
    "--batch",
    cls=Option,
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help=mark("Pairs in each step."),
)
@click.option(
    "--lr",
    "rate",
    cls=Option,
    type=float,
    default=1e-3,
    show_default=True,
    help=mark("The highest learning rate."),
)
@click.option(
    "--width",
    cls=Option,
    type=click.IntRange(32),
    default=256,
    show_default=True,
    help=mark("Channels of the network."),
)
@click.option(
    "--layers",
    cls=Option,
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help=mark("Layers of the network."),
)
@click.option(
    "--precision",
    cls=Option,
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help=mark("Number format to compute in."),
)
@click.option(
    "--device",
    cls=Option,
    default="auto",
    show_default=True,
    help=mark("Device to train on."),
)
@click.option(
    "--held-out",
    cls=Option,
    metavar="N|FILE",
    default="256",
    show_default=True,
    help=mark("How many pairs to hold out and measure on, or a file of them."),
)
@click.option(
    "--seed",
    cls=Option,
    type=int,
    default=0,
    show_default=True,
    help=mark("Seed of everything random."),
)
@click.option(
    "--simplified/--as-written",
    "simplified",
    cls=Option,
    default=True,
    show_default=True,
    help=mark("Bring texts to simplified characters and half-width punctuation."),
)
@click.option(
    "--about",
    "description",
    cls=Option,
    default="",
    help=mark("Description of the pairs, for the adapter's card."),
)
@click.option(
    "--resume/--fresh",
    "resume",
    cls=Option,
    default=None,
    help=mark("Continue an unfinished training (the default if there is one), or start over."),
)
@click.option(
    "--checkpoint-every",
    "checkpoint_s",
    cls=Option,
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help=mark("How often to save and measure."),
)
@click.option(
    "--work",
    cls=Option,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help=mark("Folder for the unfinished training; by default one in your home folder."),
)
@output_options
@pass_session
def command(
    session: Session,
    base: str,
    name: str,
    out: Path | None,
    held_out: str,
    resume: bool | None,
    work: Path | None,
    output: Output,
    **asked: Any,
) -> int:
    """Trains, takes the result into the store, and says how good it is."""
    check_parts()
    plan = Plan(
        repo=base,
        name=repo_of(name),
        held_out=int(held_out) if held_out.isdecimal() else Path(held_out),
        is_fresh=None if resume is None else not resume,
        work=work or _work(name),
        command=_written(sys.argv),
        **asked,
    )
    if out is not None and out.exists():
        raise UsageError("{path} is there already", hint="name a new folder", path=out)
    with Learning(output) as shown, _stoppable() as is_stopped:
        trained = _train(session, plan, shown, is_stopped)
    taken = _take_in(session, trained, output)
    if out is not None:
        _place(trained.folder, out)
    _discard(plan.work)
    result = Adapted(
        name=trained.about.name,
        commit=taken.commit,
        path=taken.path,
        steps=trained.steps,
        quality=trained.about.quality,
        out=None if out is None else str(out.absolute()),
    )
    output.emit(result, ids=[result.name], text=result.lines)
    return 0


def _train(
    session: Session, plan: Plan, shown: Learning, is_stopped: Callable[[], bool]
) -> Trained:
    from zhcache.chinese.adapter.course import train

    return train(session.client, plan, shown.told, is_stopped)


def _take_in(session: Session, trained: Trained, output: Output) -> PrefetchResult:
    found = find(trained.folder, repo=trained.about.name, revision=None)[0]
    files = [real for _, real, _ in found.files]
    job = session.client.import_folder(found.request(), files)
    return result_of(attend(session, job, output))


def _place(made: Path, target: Path) -> None:
    from zhcache.chinese.adapter.result import place

    place(made, target)


def _discard(work: Path) -> None:
    from zhcache.chinese.adapter.preparing import discard

    discard(work)


def _work(name: str) -> Path:
    """Returns this user's folder for an unfinished training."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "zhcache" / "adapters" / repo_of(name).replace("/", "--")


def _written(argv: list[str]) -> str:
    """Returns the command as a card shows it: where it was run is nobody's business."""
    words = (Path(word).name if word.startswith("/") else word for word in argv[1:])
    return shlex.join(["zhcache", *words])


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Gives what tells that Ctrl-C or SIGTERM came; a second one ends the command at once."""
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {one: signal.signal(one, note) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for one, old in before.items():
            signal.signal(one, old)
