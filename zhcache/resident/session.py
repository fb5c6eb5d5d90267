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
from zhcache.protocol.frames import close_all
from zhcache.protocol.residency import Call, ResidentRequest, Returned
from zhcache.resident.conversation import Conversation, LineLost


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

    def call(self, make: Callable[[int], tuple[Call, list[int]]], on_event: Callable[..., object],
             read: Callable[[Returned, list[int]], Any]) -> Any:  # fmt: skip
        """Makes one call and returns what ``read`` makes of its answer.

        Raises:
            UsageError: It was released, or this is a callback of a call of its own.
            Cancelled: It was released during the call.
            ZhcacheError: What the call ended with.
        """
        if self._caller == threading.get_ident():
            raise UsageError(
                "a resident pipeline cannot be called from a callback of its own call",
                hint="call it once the call has returned, or load another for it",
            )
        with self._lock:
            self._check_open()
            self._numbers += 1
            call, fds = make(self._numbers)
            self._caller = threading.get_ident()
            try:
                answer, beside = self._ask(call, fds, on_event)
            except DaemonUnreachable:
                if self._is_over:
                    raise Cancelled("the pipeline was released during the call") from None
                raise
            finally:
                self._caller = None
                close_all(fds)
            try:
                return read(answer, beside)
            finally:
                close_all(beside)

    def _ask(self, call: Call, fds: list[int], on_event: Callable[..., object]) -> Any:
        if self._conversation.is_open:
            try:
                return self._conversation.call(call, fds, on_event)
            except LineLost:
                # The daemon was restarted since the last call and never saw this one. Or it was
                # released by another thread: then there is no next one.
                if self._is_over:
                    raise
        self._conversation = Conversation(self._socket, self._request)
        if self._is_over:
            # Released while it was opened: what was closed then was the one before.
            self._conversation.close()
        return self._conversation.call(call, fds, on_event)

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
