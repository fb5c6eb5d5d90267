"""One fill: a worker that loads components into memory and hands the memory over.

The worker parses files from the network, so what it says is checked before it is believed: it
speaks only of what it was asked, and memory for the CPU is sealed and as large as is claimed.
Either all of the components arrive or nothing is kept.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from zhcache.errors import Cancelled, WorkerDied, ZhcacheError
from zhcache.protocol import frames
from zhcache.protocol.failure import to_error
from zhcache.protocol.frames import FrameError
from zhcache.protocol.residency import (
    ALIGNMENT,
    Arena,
    Failed,
    Fill,
    Filled,
    FromFillWorker,
    Progress,
)
from zhcached.errors import defect
from zhcached.residency.arena.held import Use
from zhcached.residency.launch.launch import Launcher, Worker, end

CPU = "cpu"
STALL_S = 300.0
"""A worker that says nothing for so long is ended. Importing torch from a slow disk takes a minute,
and reading the largest component from one takes as long as its worker tells of progress."""

ENDING_S = 10.0
SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

Landed = list[tuple[Arena, int]]

log = structlog.get_logger()


class Filling:
    """A fill that runs in a thread of its own. Its fields are guarded by whoever made it.

    Args:
        launcher: Starts the worker.
        request: What it is to do.
        keys: The key of each component's arena.
        bytes: What room was set aside for it.
        on_progress: Called from the thread, as the worker tells.
        on_end: Called from the thread, once: with the arenas, or with why there are none.
        stall_s: How long the worker may be silent.

    Attributes:
        leases: Who waits for it.
        progress: What was last told.
        error: Why there are no arenas.
    """

    def __init__(
        self,
        launcher: Launcher,
        request: Fill,
        keys: Mapping[str, str],
        bytes: int,
        on_progress: Callable[[Filling, Progress], None],
        on_end: Callable[[Filling, Landed | ZhcacheError], None],
        stall_s: float = STALL_S,
    ) -> None:
        self.request = request
        self.keys = keys
        self.bytes = bytes
        self.leases: dict[str, Use] = {}
        self.progress = Progress(note="a worker starts", bytes_total=bytes)
        self.error: ZhcacheError | None = None
        self._launcher = launcher
        self._on_progress = on_progress
        self._on_end = on_end
        self._stall_s = stall_s
        self._abandoned = threading.Event()
        self._worker: Worker | None = None

    def start(self) -> None:
        """Begins.

        Raises:
            RuntimeError: No thread can be started.
        """
        threading.Thread(target=self._run, name="fill", daemon=True).start()

    @property
    def is_abandoned(self) -> bool:
        """Whether its end is only waited for."""
        return self._abandoned.is_set()

    def abandon(self) -> None:
        """Ends the worker: nobody waits any more. ``on_end`` is called all the same."""
        self._abandoned.set()
        if self._worker is not None:
            self._worker.kill()

    def _run(self) -> None:
        try:
            landed = self._fill()
        except ZhcacheError as error:
            log.warning("fill.failed", folder=self.request.folder, error=str(error))
            self._on_end(self, error)
        except Exception as error:
            log.exception("fill.defect", folder=self.request.folder)
            self._on_end(self, defect(error))
        else:
            self._on_end(self, landed)
            self._see_off()

    def _fill(self) -> Landed:
        self._worker = worker = self._launcher.launch("fill", self.request.folder)
        landed: Landed = []
        try:
            # ``abandon`` sets first and looks for a worker then; we do it the other way round.
            if self._abandoned.is_set():
                raise Cancelled("nobody waits for the fill any more")  # noqa: TRY301
            worker.line.settimeout(self._stall_s)
            frames.send(worker.line, self.request)
            missing = dict(self.keys)
            while missing:
                self._take(worker, missing, landed)
        except BaseException as error:
            frames.close_all([fd for _, fd in landed])
            how = end(worker, ENDING_S)
            if isinstance(error, OSError | EOFError):
                raise self._fell(error, how) from error
            raise
        return landed

    def _take(self, worker: Worker, missing: dict[str, str], landed: Landed) -> None:
        event, fds = frames.receive(worker.line, FromFillWorker)
        try:
            if isinstance(event, Failed):
                raise to_error(event.error)
            if isinstance(event, Progress):
                self._on_progress(self, event)
                return
            arena = self._checked(event, fds, missing)
            landed.append((arena, fds.pop()))
        finally:
            frames.close_all(fds)

    def _checked(self, filled: Filled, fds: list[int], missing: dict[str, str]) -> Arena:
        table = filled.table
        key = missing.pop(table.component, None)
        if key is None:
            raise FrameError(f"its worker filled {table.component[:80]!r}, which was not asked for")
        if len(fds) != 1 or filled.bytes <= 0:
            raise FrameError(f"{table.component} came as {filled.bytes} bytes, {len(fds)} pieces")
        for tensor in table.tensors:
            if not 0 <= tensor.offset < filled.bytes or tensor.offset % ALIGNMENT:
                raise FrameError(f"{table.component}.{tensor.name[:80]} lies at {tensor.offset}")
        if self.request.device == CPU and not is_sealed(fds[0], filled.bytes):
            raise FrameError(f"the memory of {table.component} is not sealed")
        return Arena(
            key=key,
            device=self.request.device,
            bytes=filled.bytes,
            table=table,
            checksum=filled.checksum,
        )

    def _fell(self, error: Exception, how: str) -> ZhcacheError:
        if self._abandoned.is_set():
            return Cancelled("nobody waits for the fill any more")
        if isinstance(error, TimeoutError):
            return WorkerDied(
                "the worker that loads {folder} said nothing for {limit} seconds and was ended",
                hint="`zhcache logs` shows where it stood; try again",
                folder=self.request.folder,
                limit=self._stall_s,
            )
        if isinstance(error, FrameError):
            how = f"{how} ({error})"
        return WorkerDied(
            "the worker that loads {folder} ended early: it {how}",
            hint="`zhcache logs` shows what it said; try again",
            folder=self.request.folder,
            how=how,
        )

    def _see_off(self) -> None:
        """Lets a worker that is done end by itself: with its context goes half a GB of VRAM."""
        if (worker := self._worker) is not None:
            if worker.wait(ENDING_S) is None:
                log.warning("fill.lingers", folder=self.request.folder, pid=worker.pid)
                worker.kill()
                worker.wait(ENDING_S)
            worker.line.close()


def is_sealed(fd: int, size: int) -> bool:
    """Tells whether ``fd`` is a memfd of exactly ``size`` bytes that nobody can change."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return seals & SEALS == SEALS and os.fstat(fd).st_size == size
