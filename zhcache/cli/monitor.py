"""``zhcache monitor [COMMAND...]``: who takes what of this machine, and at most how much."""

from __future__ import annotations

import contextlib
import errno
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zhcache.cli.base import Command, Option, Output, output_options
from zhcache.cli.child import Child, Signals
from zhcache.cli.report import discard_stdout, json_line
from zhcache.errors import UsageError, ZhcacheError
from zhcache.i18n import mark, message_of, translate

if TYPE_CHECKING:
    from zhcache.monitoring.monitor import Monitor
    from zhcache.monitoring.records import Sample, Summary

_MODELS_EVERY_S = 5.0
_FILE = click.Path(dir_okay=False, path_type=Path)
Show = Callable[["Sample"], None]


@click.command(
    "monitor",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    help=mark(
        "Show what processes use of this machine: CPU, memory, GPUs, disk, network.\n\nWith a "
        "COMMAND, run it, and report at its end what it and every process that it started "
        "used; the exit code is that of the command."
    ),
)
@click.option(
    "--interval",
    cls=Option,
    type=float,
    metavar="S",
    help=mark("Seconds between two samples; 0.5 with a command or a log, else 2."),
)
@click.option(
    "--duration",
    cls=Option,
    type=click.FloatRange(0),
    metavar="S",
    help=mark("Stop after this many seconds."),
)
@click.option(
    "--pid",
    "pids",
    cls=Option,
    type=click.IntRange(1),
    multiple=True,
    help=mark("Only this process and what it starts; may be repeated."),
)
@click.option(
    "--log", cls=Option, type=_FILE, metavar="FILE", help=mark("Add each sample as a JSON line.")
)
@click.option(
    "--plot",
    cls=Option,
    type=_FILE,
    metavar="FILE",
    help=mark("Draw a chart: .svg, .html or .png."),
)
@click.option(
    "--read",
    "recorded",
    cls=Option,
    type=_FILE,
    metavar="FILE",
    help=mark("Measure nothing; show and draw what this log contains."),
)
@click.argument("words", metavar="[COMMAND [ARGS...]]", nargs=-1, type=click.UNPROCESSED)
@output_options
def command(
    *,
    words: tuple[str, ...],
    interval: float | None,
    duration: float | None,
    pids: tuple[int, ...],
    log: Path | None,
    plot: Path | None,
    recorded: Path | None,
    output: Output,
) -> int:
    """Measures until the command ends, the time is over, or Ctrl-C."""
    _check(words, pids, duration, recorded is not None, log)
    if plot is not None:
        from zhcache.monitoring.drawing import check

        # Now: at the end, the hours that were measured would be lost.
        check(plot)
    if recorded is not None:
        return _replay(recorded, plot, output)
    if interval is None:
        interval = 0.5 if words or log else 2.0
    monitor = _monitor(words, pids, interval, log)
    with Signals() as signals, monitor, _models(monitor, is_wanted=not words):
        monitor.tick()
        child = Child(words, signals, is_apart=output.is_json) if words else None
        try:
            with _show(output, is_silent=bool(words)) as show:
                _attend(monitor, signals, child, interval, duration, show)
        finally:
            if child is not None:
                child.abandon()
    with _unread_is_no_failure() if child else contextlib.nullcontext():
        _tell(monitor.summary(), output, is_apart=bool(words))
    if plot is not None:
        _draw(plot, monitor.samples, monitor.summary())
    return 0 if child is None or child.exit_code is None else child.exit_code


def _check(
    words: tuple[str, ...],
    pids: tuple[int, ...],
    duration: float | None,
    is_replay: bool,
    log: Path | None,
) -> None:
    excluded = (
        ("--read", "--log", is_replay and log is not None),
        ("--read", "--pid", is_replay and bool(pids)),
        ("--read", "--duration", is_replay and duration is not None),
    )
    for one, other, is_given in excluded:
        if is_given:
            raise UsageError("{one} and {other} exclude each other", one=one, other=other)
    if words and (pids or duration is not None or is_replay):
        raise UsageError(
            "--pid, --duration and --read are not for a command, which is watched to its end",
            hint="leave them out",
        )


def _monitor(
    words: tuple[str, ...], pids: tuple[int, ...], interval: float, log: Path | None
) -> Monitor:
    from zhcache.monitoring.monitor import Monitor

    def warn(error: ZhcacheError) -> None:
        click.echo(translate("Warning: {message}", message=message_of(error)), err=True)

    # A command is not there yet: all that it uses is to be of this span.
    return Monitor(interval, log, () if words else pids or "all", by_hand=True, warn=warn)


def _attend(
    monitor: Monitor,
    signals: Signals,
    child: Child | None,
    interval: float,
    duration: float | None,
    show: Show,
) -> None:
    """Takes samples until it is over; between two of them waits for signals."""
    if child is not None:
        monitor.add(child.pid)
        show = _until_nobody_reads(show)
    due = time.monotonic()
    end = due + duration if duration is not None else math.inf
    while time.monotonic() < end:
        if time.monotonic() >= due:
            if (sample := monitor.tick()) is not None:
                show(sample)
            due = max(due + interval, time.monotonic())
        told = signals.wait(min(due, end) - time.monotonic())
        if child is None:
            if told is not None or monitor.is_over:
                return
            continue
        if told is not None:
            child.take(told)
        child.poll()
        if child.usage is not None:
            monitor.waited(child.usage)
            return


def _until_nobody_reads(show: Show) -> Show:
    """Returns what shows samples as long as somebody reads them: a command runs on all the same."""

    def shown(sample: Sample) -> None:
        with _unread_is_no_failure():
            show(sample)

    return shown


@contextlib.contextmanager
def _unread_is_no_failure() -> Iterator[None]:
    """Lets what is written go nowhere from the moment on that nobody reads or holds it."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EPIPE:
            text = mark("what is measured is no longer told: {reason}")
            told = translate(text, reason=error.strerror or error)
            with contextlib.suppress(OSError):
                click.echo(translate("Warning: {message}", message=told), err=True)
        discard_stdout()


@contextlib.contextmanager
def _show(output: Output, *, is_silent: bool) -> Iterator[Show]:
    """Yields what shows a sample: JSON, a view in place on a terminal, else a line."""
    from zhcache.cli import vitals

    if output.is_json:
        yield lambda sample: click.echo(json_line(sample))
    elif output.is_quiet or is_silent:
        yield lambda sample: None
    elif not sys.stdout.isatty():
        yield lambda sample: click.echo(vitals.line(sample))
    else:
        from rich.console import Console
        from rich.live import Live

        console = Console()
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda sample: live.update(vitals.view(sample, console), refresh=True)


@contextlib.contextmanager
def _models(monitor: Monitor, *, is_wanted: bool) -> Iterator[None]:
    """Asks the daemon, where one answers, which process holds which model, while in the block."""
    stop = threading.Event()

    def ask() -> None:
        from zhcache.client import Client

        with contextlib.closing(Client(spawn=False)) as client:
            while not stop.is_set():
                with contextlib.suppress(ZhcacheError):
                    held = client.resident()
                    monitor.label({one.pid: one.repo for one in held if one.pid is not None})
                stop.wait(_MODELS_EVERY_S)

    if is_wanted:
        threading.Thread(target=ask, name="zhcache-models", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _tell(found: Summary, output: Output, *, is_apart: bool) -> None:
    from zhcache.cli import vitals

    if output.is_json:
        click.echo(json_line(found))
    elif not output.is_quiet:
        for line in vitals.summary(found):
            # Stdout is the command's.
            click.echo(line, err=is_apart)


def _replay(recorded: Path, plot: Path | None, output: Output) -> int:
    from zhcache.monitoring.log import read

    span = read(recorded)
    _tell(span.summary, output, is_apart=False)
    if plot is not None:
        _draw(plot, span.samples, span.summary)
    return 0


def _draw(plot: Path, samples: list[Sample], found: Summary) -> None:
    from zhcache.cli import vitals
    from zhcache.monitoring.drawing import save

    if samples:
        save(plot, samples, lambda: vitals.summary_tables(found))
