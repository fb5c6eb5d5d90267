"""Fills arenas: loads components as stock diffusers does, copies their tensors, hands them over."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zhcache.errors import NoSpace, ZhcacheError
from zhcache.pipeline import published, skeleton
from zhcache.pipeline.quick import paused_collector
from zhcache.pipeline.refusals import MAX_WORDS, check_complete, is_no_memory, told
from zhcache.protocol import frames
from zhcache.protocol.failure import to_info
from zhcache.protocol.residency import Failed, Fill, Filled, Progress, Table
from zhcached.workers.layout import Layout, as_bytes, lay_out
from zhcached.workers.memfd import MemfdMemory
from zhcached.workers.memory import Memory

CPU = "cpu"
PROGRESS_S = 0.2

Open = Callable[[int, str], Memory]


def open_memory(size_bytes: int, device: str) -> Memory:
    """Returns memory for an arena on ``device``.

    Raises:
        NoSpace: There is not so much.
        ZhcacheError: The device cannot be used.
    """
    if device == CPU:
        return MemfdMemory(size_bytes)
    from zhcached.workers.cuda import CudaMemory

    return CudaMemory.open(size_bytes, device)


def run(line: socket.socket, request: Fill, open_memory: Open = open_memory) -> None:
    """Answers ``request`` on ``line``: an arena for each component, or why there are none.

    Raises:
        OSError: The front is gone.
    """
    try:
        fill(line, request, open_memory)
    except ZhcacheError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__, file=sys.stderr)
        frames.send(line, Failed(error=to_info(error)))
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        frames.send(line, Failed(error=to_info(_unloadable(request, error))))
    except Exception as error:  # noqa: BLE001 - whatever a library raises is told, not lost
        frames.send(line, Failed(error=to_info(_unloadable(request, error))))


def fill(line: socket.socket, request: Fill, open_memory: Open) -> None:
    """Loads, lays out, copies and hands over.

    Raises:
        ZhcacheError: What cannot be shared, or has no room.
        OSError: Files cannot be read, or the front is gone.
    """
    frames.send(line, Progress(note="loading torch and diffusers"))
    folder = Path(request.folder)
    with paused_collector(), told(folder):
        layouts = [load(folder, name) for name in request.components]
    teller = _Told(line, sum(layout.bytes for layout in layouts))
    while layouts:
        # Let go of one by one: what had to be converted lies in this process's own memory.
        layout = layouts.pop(0)
        size_bytes, fd, checksum = _copied(layout, request.device, open_memory, teller)
        try:
            answer = Filled(bytes=size_bytes, table=layout.table, checksum=checksum)
            frames.send(line, answer, [fd])
        finally:
            os.close(fd)


def load(folder: Path, component: str) -> Layout:
    """Returns one component as stock ``from_pretrained`` reads it, laid out.

    Raises:
        UsageError: It is no module, or one that cannot be shared.
        IntegrityError: Its weights are not all there.
        OSError: Its files cannot be read.
    """
    form = published.published(folder)
    dtype = form.dtypes.get(component, form.default)
    library, class_name = published.components(folder)[component]
    kind: Any = skeleton.component_class(library, class_name)
    module = kind.from_pretrained(
        str(folder / component),
        variant=form.variant_of(component),
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=True,
        **{skeleton.dtype_option(kind): getattr(torch, dtype)},
    )
    check_complete(folder, {component: module})
    table = Table(
        component=component,
        library=library,
        class_name=class_name,
        tensors=[],
        aliases={},
        versions=skeleton.versions(),
        dtype=dtype,
    )
    return lay_out(module, table)


class _Told:
    """Tells the front how far the copying is, now and then."""

    def __init__(self, line: socket.socket, total: int) -> None:
        self._line, self._total = line, total
        self._done, self._next = 0, 0.0

    def copied(self, component: str, size_bytes: int) -> None:
        """Counts ``size_bytes`` more."""
        self._done += size_bytes
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_S
            note = f"copying {component}"
            event = Progress(note=note, bytes_done=self._done, bytes_total=self._total)
            frames.send(self._line, event)


def _copied(layout: Layout, device: str, open_memory: Open, told: _Told) -> tuple[int, int, str]:
    """Returns size, descriptor and checksum of the arena that now holds the component."""
    memory = open_memory(layout.bytes, device)
    with contextlib.closing(memory):
        size_bytes = memory.flat.numel()
        for entry, tensor in zip(layout.table.tensors, layout.tensors, strict=True):
            data = as_bytes(tensor)
            memory.put(entry.offset, data)
            told.copied(layout.table.component, data.numel())
        layout.tensors.clear()
        fd, checksum = memory.finish()
    return size_bytes, fd, checksum


def _unloadable(request: Fill, error: Exception) -> ZhcacheError:
    traceback.print_exception(error, file=sys.stderr)
    if is_no_memory(error):
        return NoSpace(
            "there is no memory left to bring {folder} to {device}: {reason}",
            hint="zhcache stop lets models go; zhcache ps lists them",
            folder=request.folder,
            device=request.device,
            reason=str(error).strip()[:MAX_WORDS] or type(error).__name__,
        )
    return ZhcacheError(
        "the pipeline in {folder} cannot be loaded: {kind}: {reason}",
        hint="`zhcache verify` checks its files; try stock from_pretrained on that folder",
        folder=request.folder,
        kind=type(error).__name__,
        reason=str(error).strip()[:MAX_WORDS],
    )
