"""Says on a terminal what a load waits for: room on the device, weights that are copied there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TextIO

from zhcache.protocol.residency import Progress

_WIDTH = 79


@contextlib.contextmanager
def shown(stream: TextIO) -> Iterator[Callable[[Progress], None]]:
    """Yields what shows progress on one line of ``stream``; the line is gone afterwards.

    Nothing is shown where ``stream`` is no terminal.
    """
    is_used = False

    def show(progress: Progress) -> None:
        nonlocal is_used
        if not stream.isatty():
            return
        is_used = True
        stream.write(f"\r{line(progress):<{_WIDTH}}")
        stream.flush()

    try:
        yield show
    finally:
        if is_used:
            stream.write(f"\r{'':<{_WIDTH}}\r")
            stream.flush()


def line(progress: Progress) -> str:
    """Returns what the line says: ``zhcache: copying unet, 45 %``."""
    note = progress.note
    if progress.bytes_total:
        note += f", {100 * progress.bytes_done // progress.bytes_total} %"
    return f"zhcache: {note}"[:_WIDTH]
