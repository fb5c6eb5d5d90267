"""A connection to a resident pipeline: opened, asked, closed. The connection is the lease.

Owns what goes wrong between this process and the worker. It is used by one thread at a time. A
call that is left in the middle, by an interrupt or an error of the caller's own, is cancelled, and
the conversation goes on. Where that happened within a frame it does not: how much of it was read
cannot be known, so the connection is closed, and the next call opens another.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from zhcache.channel import dial, unreachable
from zhcache.errors import Busy, DaemonUnreachable, UsageError, VersionMismatch, ZhcacheError
from zhcache.paths import handover_path
from zhcache.protocol import frames
from zhcache.protocol.failure import to_error
from zhcache.protocol.messages import ErrorReply
from zhcache.protocol.residency import (
    Call,
    Cancel,
    Failed,
    Opened,
    Progress,
    Queued,
    ResidentRequest,
    Returned,
    Step,
    ToClient,
)

_ANSWER_S = 5.0
"""How long the daemon may take to say whether anything is to be waited for at all."""

_GOODBYE_S = 2.0
"""How long a cancelled call's end is waited for."""


class LineLost(DaemonUnreachable):
    """The connection ended before the daemon had taken the call: it may be made again."""


class _Ended(Exception):
    """The call ended with ``error``; the conversation goes on."""

    def __init__(self, error: ZhcacheError) -> None:
        super().__init__(str(error))
        self.error = error


class _Lost(Exception):
    """The connection failed; not an ``OSError``, which a caller's callback may raise as well."""


class Conversation:
    """One connection to ``handover.sock`` over which a pipeline was opened.

    Args:
        api_socket: The daemon's API socket, which the handover socket stands beside.
        request: What is wanted.
        on_progress: Told what is waited for.
        until: When ``time.monotonic()`` is there, waiting ends; None waits for ever. What is warm
            is had even if it is over: the daemon is heard once.

    Raises:
        Busy: ``until`` is over.
        DaemonUnreachable: Nobody listens, or the daemon went away.
        ZhcacheError: What the daemon reported; ``NotFound`` where the snapshot is not held.
    """

    def __init__(
        self,
        api_socket: Path,
        request: ResidentRequest,
        *,
        on_progress: Callable[[Progress], object] = lambda _: None,
        until: float | None = None,
    ) -> None:
        self._path = handover_path(api_socket)
        self._line = dial(self._path)
        self._pid = os.getpid()
        self._is_between_frames = True
        try:
            self._line.settimeout(None)
            frames.send(self._line, request)
            self.opened = self._wait_open(on_progress, until)
        except BaseException as error:
            self.close()
            if isinstance(error, (OSError, EOFError)):
                raise unreachable(self._path, error) from error
            raise

    @property
    def is_open(self) -> bool:
        """Whether calls may be made over it, as far as is known here."""
        return self._line.fileno() >= 0 and self._pid == os.getpid()

    def calls(
        self,
        count: int,
        window: int,
        make: Callable[[int], tuple[Call, list[int]]],
        on_event: Callable[[int, Queued | Step], object],
        on_answer: Callable[[int, Returned, list[int]], object],
    ) -> None:
        """Makes ``count`` calls, ``window`` of them at a time, each known by its place.

        Whatever is raised in between, by one of the calls, a callback or an interrupt, cancels all
        that are not over.

        Args:
            count: How many.
            window: How many are in flight; fewer where the daemon finds them too many.
            make: Returns a call and what goes beside it, closed here; again if it is refused.
            on_event: Told what becomes of a call.
            on_answer: Given a call's answer and the descriptors beside it, closed here.

        Raises:
            LineLost: The daemon was gone already.
            DaemonUnreachable: The daemon went away during the calls.
            ZhcacheError: What one of them ended with.
        """
        todo, flying = deque(range(count)), dict[int, int]()
        is_answered = False
        try:
            while todo or flying:
                while todo and len(flying) < window:
                    self._send(make, todo, flying)
                event, beside = self._next()
                is_answered = True
                try:
                    place = flying.get(getattr(event, "id", 0))
                    if isinstance(event, Failed) and (place is not None or not event.id):
                        flying.pop(event.id, None)
                        error = to_error(event.error)
                        if place is None or not flying or not isinstance(error, Busy):
                            raise _Ended(error)
                        # Other calls of this user are many; those that fly make place for it.
                        window = len(flying)
                        todo.appendleft(place)
                    elif place is not None and isinstance(event, Returned):
                        del flying[event.id]
                        on_answer(place, event, beside)
                    elif place is not None and isinstance(event, (Queued, Step)):
                        on_event(place, event)
                finally:
                    frames.close_all(beside)
        except _Ended as ended:
            self._abandon(list(flying))
            raise ended.error from None
        except _Lost as lost:
            self.close()
            kind = DaemonUnreachable if is_answered else LineLost
            raise kind(
                "the daemon at {path} went away: {reason}",
                hint="call again; see `zhcache logs` if it stays so",
                path=self._path,
                reason=str(lost) or "the connection ended",
            ) from lost
        except BaseException:
            self._abandon(list(flying))
            raise

    def _send(
        self,
        make: Callable[[int], tuple[Call, list[int]]],
        todo: deque[int],
        flying: dict[int, int],
    ) -> None:
        place = todo[0]
        call, fds = make(place)
        # Before it is sent: an interrupt in between must cancel it.
        flying[call.id] = todo.popleft()
        try:
            with self._border(), self._frame():
                frames.send(self._line, call, fds)
        finally:
            frames.close_all(fds)

    def _next(self) -> tuple[Any, list[int]]:
        with self._border():
            # Waited for outside the frame: an interrupt strikes here nearly always.
            self._line.recv(1, socket.MSG_PEEK)
            with self._frame():
                return self._receive()

    def close(self) -> None:
        """Ends the lease; a second call does nothing. In a forked child only its copy is closed."""
        if self._pid == os.getpid():
            # Closing alone would not wake a thread that waits on it, nor tell the daemon.
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()

    def _abandon(self, calls: list[int]) -> None:
        """Cancels calls; closes the connection unless their ends are read from it in time."""
        if not calls and self._is_between_frames:
            return
        is_ended = False
        try:
            self._line.settimeout(_GOODBYE_S)
            # Within a frame of a call's own it would be read as a part of that.
            if self._is_between_frames:
                for call in calls:
                    frames.send(self._line, Cancel(id=call))
                self._skip_to_end(set(calls), time.monotonic() + _GOODBYE_S)
                self._line.settimeout(None)
                is_ended = True
        except (OSError, EOFError, ZhcacheError):
            # Whatever it was, the daemon sees the connection end.
            pass
        finally:
            if not is_ended:
                self.close()

    def _skip_to_end(self, calls: set[int], until: float) -> None:
        while calls:
            self._line.settimeout(max(until - time.monotonic(), 0.001))
            event, beside = self._receive()
            frames.close_all(beside)
            if isinstance(event, (Returned, Failed)):
                calls.discard(event.id)

    @contextlib.contextmanager
    def _frame(self) -> Iterator[None]:
        self._is_between_frames = False
        yield
        self._is_between_frames = True

    @contextlib.contextmanager
    def _border(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError) as error:
            raise _Lost(str(error)) from error
        except ValueError as error:
            raise UsageError(
                "the call's words are too many for one message: {reason}", reason=error
            ) from error

    def _wait_open(self, on_progress: Callable[[Progress], object], until: float | None) -> Opened:
        told: Progress | None = None
        limit = None if until is None else max(until, time.monotonic() + _ANSWER_S)
        while True:
            if limit is not None:
                self._line.settimeout(max(limit - time.monotonic(), 0.001))
            try:
                event, fds = self._receive()
            except TimeoutError as error:
                raise _late(told) from error
            frames.close_all(fds)
            if isinstance(event, Opened):
                self._line.settimeout(None)
                return event
            if isinstance(event, Failed):
                raise to_error(event.error)
            if isinstance(event, Progress):
                on_progress(event)
                told, limit = event, until

    def _receive(self) -> tuple[Any, list[int]]:
        raw, fds = frames.receive_raw(self._line)
        try:
            return msgspec.json.decode(raw, type=ToClient), fds
        except (msgspec.MsgspecError, RecursionError) as error:
            frames.close_all(fds)
            raise _unread(raw, error) from error


def _late(told: Progress | None) -> Busy:
    if told is not None and told.holders:
        return Busy(
            "the pipeline was not ready in the time given: the room it needs is held by {holders}",
            hint="give a longer timeout, or end one of yours: zhcache stop --force REPO",
            holders="; ".join(told.holders),
        )
    return Busy(
        "the pipeline was not ready in the time given",
        hint="it goes on being loaded; try again, or give a longer timeout",
    )


def _unread(raw: bytes, error: Exception) -> ZhcacheError:
    # A daemon from before residents refuses in the form it knows.
    with contextlib.suppress(msgspec.MsgspecError, RecursionError):
        return to_error(msgspec.json.decode(raw, type=ErrorReply).error)
    return VersionMismatch(
        "the daemon sent an answer this client cannot read: {reason}",
        hint="bring both to the same version of zhcache",
        reason=error,
    )
