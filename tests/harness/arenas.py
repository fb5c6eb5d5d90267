"""Arenas as a client gets them, filled by the real worker's code over a real socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zhcache.pipeline.published import components, has_weights
from zhcache.protocol import frames
from zhcache.protocol.failure import to_error
from zhcache.protocol.residency import Arena, Failed, Fill, Filled, FromFillWorker


def weighted(folder: Path) -> list[str]:
    """Returns the components of a pipeline that have weights."""
    return [name for name in components(folder) if has_weights(folder / name)]


def filled(
    folder: Path, names: Sequence[str] | None = None, device: str = "cpu", **options: object
) -> list[tuple[Arena, int]]:
    """Returns the arenas of these components, all by default; the descriptors are the caller's.

    Raises:
        ZhcacheError: What the worker reported.
    """
    from zhcached.workers import fill

    wanted = weighted(folder) if names is None else list(names)
    request = Fill(folder=str(folder), components=wanted, device=device)
    ours, theirs = socket.socketpair()

    def work() -> None:
        with theirs:
            fill.run(theirs, request, **options)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        with ours:
            return list(_received(ours, len(wanted), device))
    finally:
        worker.join()


@contextmanager
def held(folder: Path, **options: object) -> Iterator[list[tuple[Arena, int]]]:
    """Yields arenas whose descriptors are closed afterwards."""
    arenas = filled(folder, **options)
    try:
        yield arenas
    finally:
        frames.close_all([fd for _, fd in arenas])


def hand(folder: Path):
    """Returns what asks for arenas, as ``reading.over_arenas`` takes it."""

    def ask(device: str, wanted: list[str], damaged: list[str]) -> list[tuple[Arena, int]]:
        assert not damaged
        return filled(folder, wanted, device)

    return ask


def twin(arenas: Sequence[tuple[Arena, int]]) -> list[tuple[Arena, int]]:
    """Returns the same arenas with descriptors of their own, as a second client gets them."""
    return [(arena, os.dup(fd)) for arena, fd in arenas]


def _received(line: socket.socket, count: int, device: str) -> Iterator[tuple[Arena, int]]:
    while count:
        event, fds = frames.receive(line, FromFillWorker)
        if isinstance(event, Failed):
            raise to_error(event.error)
        if isinstance(event, Filled):
            count -= 1
            yield (
                Arena(
                    key=f"key-of-{event.table.component}",
                    device=device,
                    bytes=event.bytes,
                    table=event.table,
                    checksum=event.checksum,
                ),
                fds[0],
            )
