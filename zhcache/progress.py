"""Progress of jobs on stderr: bars on a terminal, sparse plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from zhcache.i18n import mark, translate
from zhcache.protocol.messages import FileProgress, Job

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SHOWN_FILES = 8
_TOTAL_EVERY_S = 5.0
_LINE_EVERY_S = 1.0
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

_STATES = {
    "queued": mark("queued"),
    "resolving": mark("asking the sources"),
    "fetching": mark("fetching"),
    "publishing": mark("publishing"),
    "converting": mark("converting"),
    "running": mark("running"),
    "done": mark("done"),
    "failed": mark("failed"),
    "cancelled": mark("cancelled"),
}


def size(count: float) -> str:
    """Returns a number of bytes as people read it: ``1.7 GiB``."""
    for unit in _UNITS[:-1]:
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"


def state(name: str) -> str:
    """Returns a job's state in the reader's language."""
    return translate(_STATES.get(name, name))


class Display(Protocol):
    """Shows a job as it changes. A context manager: leaving it gives the terminal back."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def update(self, job: Job) -> None:
        """Shows what is new in ``job``."""
        ...


def display(stream: TextIO | None = None, *, is_quiet: bool = False) -> Display:
    """Returns the display that fits ``stream`` (stderr)."""
    sink = stream or sys.stderr
    if is_quiet:
        return Silence()
    return Bars(sink) if sink.isatty() else Lines(sink)


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def update(self, job: Job) -> None:
        """Shows nothing."""


class Lines(Silence):
    """Plain lines: at most one a second when a file begins or ends, a total every few seconds.

    Args:
        stream: Where to.
        clock: Seconds that never go back.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._state = ""
        self._last_line = self._last_total = float("-inf")
        self._done: dict[str, bool] = {}

    def update(self, job: Job) -> None:
        """Writes a line if something changed and the last one is old enough."""
        now = self._clock()
        if job.state != self._state:
            self._state = job.state
            self._write(f"{job.repo or job.kind}: {state(job.state)}", now)
            self._last_total = now
            return
        for file in job.files:
            is_done = file.done >= file.size
            if self._done.get(file.path) == is_done:
                continue
            if now - self._last_line < _LINE_EVERY_S:
                return
            self._done[file.path] = is_done
            text = mark("{file}: {size} from {source}") if file.source else mark("{file}: {size}")
            if is_done:
                text = mark("{file}: done, {size}")
            self._write(
                translate(text, file=file.path, size=size(file.size), source=file.source), now
            )
        if job.bytes_total and now - self._last_total >= _TOTAL_EVERY_S:
            self._last_total = now
            self._write(
                translate(
                    mark("{repo}: {done} of {total}, {rate}/s"),
                    repo=job.repo,
                    done=size(job.bytes_done),
                    total=size(job.bytes_total),
                    rate=size(job.rate),
                ),
                now,
            )

    def _write(self, text: str, now: float) -> None:
        self._last_line = now
        print(text, file=self._stream, flush=True)


class Bars:
    """One bar for each file on its way and one for all of it.

    rich counts terminal cells, so Chinese names, two cells a character, keep the columns straight.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[source]}", markup=False),
            console=Console(file=stream),
            transient=True,
        )
        self._rows: dict[str, TaskID] = {}
        self._total: TaskID | None = None

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, job: Job) -> None:
        """Moves the bars."""
        moving = [file for file in job.files if file.done < file.size][:_SHOWN_FILES]
        names = {file.path for file in moving}
        for path in [path for path in self._rows if path not in names]:
            self._progress.remove_task(self._rows.pop(path))
        for file in moving:
            self._show(file)
        text = f"{job.repo or job.kind} {state(job.state)}"
        if self._total is None:
            self._total = self._progress.add_task(text, total=None, source="")
        self._progress.update(
            self._total,
            description=text,
            total=job.bytes_total or None,
            completed=job.bytes_done,
            source=job.note,
        )

    def _show(self, file: FileProgress) -> None:
        if file.path not in self._rows:
            self._rows[file.path] = self._progress.add_task(
                file.path, total=file.size, source=file.source
            )
        self._progress.update(
            self._rows[file.path], completed=file.done, total=file.size, source=file.source
        )
