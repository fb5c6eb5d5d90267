"""One component on its way: a worker that reads and sends, and the drafts that it fills.

The worker writes nothing. What it sends is copied into memory of our own before it is hashed and
written, so that nobody can change bytes that were hashed; what it says is held against
``account``. A file is a blob once the worker has ended it, and counts once all have come.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec
import structlog

from zhcache.errors import Cancelled, WorkerDied, ZhcacheError
from zhcache.protocol import frames
from zhcache.protocol.conversion import (
    CHUNK,
    Begin,
    Chunk,
    Convert,
    Discard,
    End,
    Extract,
    FromConvertWorker,
    TensorError,
    Unpickle,
)
from zhcache.protocol.failure import to_error
from zhcache.protocol.frames import FrameError
from zhcache.protocol.residency import Failed
from zhcached.convert.account import Account
from zhcached.residency.launch.launch import Launcher, Worker, end
from zhcached.store.draft import Draft
from zhcached.store.intake import Intake

STALL_S = 300.0
"""A worker that says nothing for so long is ended; importing torch from a slow disk takes a
minute, and so may the largest tensor of a model where it is quantized."""

ENDING_S = 10.0

PATIENCE_S = 1800.0
PACE = 2**20
"""Bytes of the inputs in a second, below which a worker is ended that has had ``PATIENCE_S`` as
well: one that is in a stranger's hands could keep its place for ever, a byte at a time. The slowest
scheme takes some 20 MiB in a second."""

log = structlog.get_logger()


class MadeFile(msgspec.Struct, frozen=True):
    """A blob that was made."""

    size: int
    sha256: str


class Converted(msgspec.Struct, frozen=True):
    """What became of a component. All names are below its folder.

    Attributes:
        files: What was made.
        same: Files of weights that are taken as the base has them, by their name there.
        tensors: What became of the tensors of each file that was made.
        tools: Versions of what made them.
        kept: Modules that stayed wider, and why.
    """

    files: dict[str, MadeFile]
    same: list[str]
    tensors: dict[str, list[TensorError]]
    tools: dict[str, str]
    kept: dict[str, str]


class Task(Protocol):
    """What a worker is asked to convert."""

    @property
    def title(self) -> str:
        """What is to be done, in a few words."""
        ...

    def request(self, folder: str) -> Convert | Unpickle | Extract:
        """Returns what the worker is asked, for weights in ``folder``."""
        ...


T = TypeVar("T", bound=Task)


class _LineFailed(Exception):
    """The worker is gone, silent, or says what it may not; ``__cause__`` is which."""


class Conversion(Generic[T]):
    """One conversion: of a component, of a pickle, or of a part of a checkpoint.

    Args:
        work: What is to be done.
        folder: Where what is read lies: a snapshot, or the folder of a blob.
        job: Holds the blobs.
        launcher: Starts the worker.
        intake: Takes the bytes.
        stall_s: How long the worker may be silent.
        fds: Descriptors that go beside the request; they stay the caller's.
    """

    def __init__(
        self,
        work: T,
        folder: str,
        job: str,
        *,
        launcher: Launcher,
        intake: Intake,
        stall_s: float = STALL_S,
        fds: Sequence[int] = (),
    ) -> None:
        self.work = work
        self._fds = fds
        self._name = f"{work.title} of {folder}"
        self._request = work.request(folder)
        self._account = Account(self._request)
        self._job = job
        self._launcher = launcher
        self._intake = intake
        self._stall_s = stall_s
        self._limit_s = PATIENCE_S + self._account.total / PACE
        self._abandoned = threading.Event()
        self._is_late = False
        self._worker: Worker | None = None
        self._draft: Draft | None = None
        self._files: dict[str, MadeFile] = {}

    @property
    def bytes_done(self) -> int:
        """Of the inputs, as far as the worker told."""
        return self._account.bytes_done

    def abandon(self) -> None:
        """Ends the worker; ``run`` raises then. From any thread."""
        self._abandoned.set()
        if self._worker is not None:
            self._worker.kill()

    def run(self) -> Converted:
        """Converts, in the calling thread.

        Raises:
            Cancelled: It was abandoned.
            WorkerDied: The worker ended early, said nothing for long, or what it may not, or takes
                longer than any.
            NoSpace: No room.
            ZhcacheError: The worker says why it cannot be done; or the disk failed.
        """
        self._worker = worker = self._launcher.launch("convert", self._name)
        limit = threading.Timer(self._limit_s, self._end_late)
        limit.daemon = True
        limit.start()
        try:
            # ``abandon`` sets first and looks for a worker then; we do it the other way round.
            if self._abandoned.is_set():
                raise Cancelled("the job was cancelled")  # noqa: TRY301
            worker.line.settimeout(self._stall_s)
            with _heard():
                frames.send(worker.line, self._request, self._fds)
            buffer = memoryview(bytearray(CHUNK))
            while self._account.finished is None:
                self._take(worker, buffer)
            converted = self._converted()
        except BaseException as error:
            how = end(worker, ENDING_S)
            if isinstance(error, _LineFailed):
                raise self._fell(error.__cause__, how) from error
            raise
        finally:
            limit.cancel()
            self._drop_draft()
        self._see_off(worker)
        return converted

    def _end_late(self) -> None:
        self._is_late = True
        if self._worker is not None:
            self._worker.kill()

    def _take(self, worker: Worker, buffer: memoryview) -> None:
        with _heard():
            event, fds = frames.receive(worker.line, FromConvertWorker)
            frames.close_all(fds)
            self._account.take(event)
        match event:
            case Begin(path=_, size=size):
                self._draft = self._intake.draft(size, self._job)
            case Chunk(size=size):
                assert self._draft is not None
                with _heard():
                    _read(worker, buffer[:size])
                self._draft.write(buffer[:size])
            case End(path=path):
                assert self._draft is not None
                made = self._draft.commit()
                self._files[path] = MadeFile(made.size, made.sha256)
                self._draft = None
            case Discard(path=path, reason=reason):
                log.info("convert.discarded", path=path, reason=reason[:500])
                self._drop_draft()
                self._files.pop(path, None)
            case Failed(error=told):
                raise to_error(told)
            case _:
                pass

    def _drop_draft(self) -> None:
        if self._draft is not None:
            self._draft.close()
            self._draft = None

    def _converted(self) -> Converted:
        finished = self._account.finished
        assert finished is not None
        for path, content in self._account.small.items():
            made = self._intake.put(content.encode(), self._job)
            self._files[path] = MadeFile(made.size, made.sha256)
        return Converted(
            files=self._files,
            same=sorted(self._account.same),
            tensors=self._account.tensors,
            tools=finished.tools,
            kept=finished.kept,
        )

    def _fell(self, error: BaseException | None, how: str) -> ZhcacheError:
        if self._abandoned.is_set():
            return Cancelled("the job was cancelled")
        if self._is_late:
            return WorkerDied(
                "the worker that converts {what} was not done after {limit} seconds and was ended",
                hint="`zhcache logs` shows where it stood; try again",
                what=self._name,
                limit=round(self._limit_s),
            )
        if isinstance(error, TimeoutError):
            return WorkerDied(
                "the worker that converts {what} said nothing for {limit} seconds and was ended",
                hint="`zhcache logs` shows where it stood; try again",
                what=self._name,
                limit=self._stall_s,
            )
        if isinstance(error, FrameError):
            how = f"{how} ({error})"
        return WorkerDied(
            "the worker that converts {what} ended early: it {how}",
            hint="`zhcache logs` shows what it said; try again",
            what=self._name,
            how=how,
        )

    def _see_off(self, worker: Worker) -> None:
        if worker.wait(ENDING_S) is None:
            log.warning("convert.lingers", what=self._name, pid=worker.pid)
            worker.kill()
            worker.wait(ENDING_S)
        worker.line.close()


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Tells a fault of the line, the worker's, from one of the disk, which is ours."""
    try:
        yield
    except (EOFError, OSError) as error:
        raise _LineFailed from error


def _read(worker: Worker, into: memoryview) -> None:
    while into:
        count = worker.line.recv_into(into)
        if count == 0:
            raise FrameError("the connection ended inside a chunk")
        into = into[count:]
