"""The way to one resident pipeline that lasts: over restarts of the daemon, threads and forks."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from zhcache.errors import Cancelled, DaemonUnreachable, UsageError
from zhcache.protocol.residency import Call, ResidentRequest, Returned
from zhcache.resident.conversation import Conversation, LineLost

CALLS_OF_A_WORKER = 2
"""In flight: the one it runs and the next, so that it never waits for this process."""


class Session:
    """The way to one resident pipeline: a conversation, and another one where that ended.

    Thread-safe: calls of several threads come one after the other. A forked child has its own.
    """

    def __init__(self, socket: Path, request: ResidentRequest, first: Conversation) -> None:
        self._socket = socket
        # By commit: the branch may move on, and every call is to meet the same weights.
        self._request = msgspec.structs.replace(
            request, repo=first.opened.repo, revision=first.opened.commit
        )
        self._conversation = first
        self._numbers = 0
        self._is_over = False
        self._caller: int | None = None
        self._lock = threading.Lock()
        self.opened = first.opened
        _live.add(self)

    @property
    def workers(self) -> int:
        """How many workers take its calls."""
        return len(self.opened.devices) or 1 if self.opened.placement == "replicate" else 1

    def call(self, make: Callable[[int], tuple[Call, list[int]]], on_event: Callable[..., object],
             read: Callable[[Returned, list[int]], Any]) -> Any:  # fmt: skip
        """Makes one call and returns what ``read`` makes of its answer; raises as ``calls``."""
        results: list[Any] = []
        self.calls(
            1,
            lambda _, number: make(number),
            lambda _, event: on_event(event),
            lambda _, answer, fds: results.append(read(answer, fds)),
        )
        return results[0]

    def calls(
        self,
        count: int,
        make: Callable[[int, int], tuple[Call, list[int]]],
        on_event: Callable[[int, Any], object],
        read: Callable[[int, Returned, list[int]], object],
    ) -> None:
        """Makes calls, several at a time.

        Args:
            count: How many.
            make: Returns the call of a place under a number, and what goes beside it.
            on_event: Told of a place what becomes of its call.
            read: Given the answer of a place's call, and the descriptors beside it.

        Raises:
            UsageError: It was released, or this is a callback of a call of its own.
            Cancelled: It was released during the calls.
            ZhcacheError: What one of them ended with; the others are cancelled.
        """
        if self._caller == threading.get_ident():
            raise UsageError(
                "a resident pipeline cannot be called from a callback of its own call",
                hint="call it once the call has returned, or load another for it",
            )
        with self._lock:
            self._check_open()
            self._caller = threading.get_ident()

            def numbered(place: int) -> tuple[Call, list[int]]:
                self._numbers += 1
                return make(place, self._numbers)

            try:
                self._ask(count, numbered, on_event, read)
            except DaemonUnreachable:
                if self._is_over:
                    raise Cancelled("the pipeline was released during the call") from None
                raise
            finally:
                self._caller = None

    def _ask(self, count: int, make: Any, on_event: Any, on_answer: Any) -> None:
        window = CALLS_OF_A_WORKER * self.workers
        if self._conversation.is_open:
            try:
                self._conversation.calls(count, window, make, on_event, on_answer)
            except LineLost:
                # The daemon was restarted since the last call and never saw this one. Or it was
                # released by another thread: then there is no next one.
                if self._is_over:
                    raise
            else:
                return
        self._conversation = Conversation(self._socket, self._request)
        if self._is_over:
            # Released while it was opened: what was closed then was the one before.
            self._conversation.close()
        self._conversation.calls(count, window, make, on_event, on_answer)

    def _check_open(self) -> None:
        if self._is_over:
            raise UsageError(
                "this pipeline was released", hint="load it again: zhcache.load_pipeline"
            )

    def end(self) -> None:
        """Ends the lease and cancels what runs; a second call does nothing."""
        self._is_over = True
        self._conversation.close()

    def forget(self) -> None:
        """Lets go of the parent's connection and lock, after a fork."""
        self._conversation.close()
        self._lock = threading.Lock()
        self._caller = None


_live: weakref.WeakSet[Session] = weakref.WeakSet()


def _forget_all() -> None:
    for session in list(_live):
        session.forget()


os.register_at_fork(after_in_child=_forget_all)
