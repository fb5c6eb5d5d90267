"""A lease held by this process: while its connection is open, what it names stays on the disk."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from zhcache.channel import Channel
from zhcache.errors import DaemonUnreachable, ZhcacheError
from zhcache.protocol import messages

_WORD_S = 5.0


class Lease:
    """The promise that ``path`` stays until ``end()``, or until this process is gone.

    The open connection is the lease, so the daemon learns of this process's end however it ends.
    A forked child closes its copy of the descriptor: it must not keep alive what its parent let
    go. Ends when collected, too.

    Args:
        channel: The way to the daemon that grants it.
        request: What is leased.

    Raises:
        ZhcacheError: What the daemon reported: ``NotFound`` where the snapshot is not held.
    """

    def __init__(self, channel: Channel, request: messages.LeaseRequest) -> None:
        held = contextlib.ExitStack()
        try:
            answer = held.enter_context(channel.open("POST", "/v1/leases", body=request))
            lines = channel.lines(answer, messages.Lease)
            granted = _first(lines, channel)
        except BaseException:
            held.close()
            raise
        self.granted = granted
        self._socket = _socket(answer)
        # The generator is kept: dropping it would close the answer, and with it the lease.
        self._lines = lines
        self._end = weakref.finalize(self, _end, channel, granted.id, self._socket, held.close)
        _live.add(self)

    @property
    def path(self) -> Path:
        """The leased snapshot's folder."""
        return Path(self.granted.path)

    @property
    def is_live(self) -> bool:
        """Whether ``end`` has not been called; says nothing of the daemon's side."""
        return self._end.alive

    def end(self) -> None:
        """Ends the lease; a second call does nothing."""
        _live.discard(self)
        self._end()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def forget(self) -> None:
        """Drops this process's copy of the connection without ending the lease (after a fork)."""
        self._end.detach()
        if self._socket is not None and self._socket.fileno() >= 0:
            # Never shutdown(): that would end the parent's connection as well.
            os.close(self._socket.detach())


def _end(
    channel: Channel, lease: str, line: socket.socket | None, close: Callable[[], object]
) -> None:
    """Ends a lease, by a word where its connection cannot say it any more.

    A daemon that was restarted keeps the lease for as long as this process lives, since it sees
    nothing else of it.
    """
    was_lost = line is not None and _is_lost(line)
    close()
    if was_lost:
        # The daemon may be away, or may know that the lease is over.
        # A channel of its own: collection may strike while this thread is inside the other one.
        with contextlib.suppress(ZhcacheError), contextlib.closing(Channel(channel.path)) as anew:
            anew.send("DELETE", f"/v1/leases/{lease}", timeout_s=_WORD_S)


def _is_lost(line: socket.socket) -> bool:
    """Tells whether the other side has closed, past what it sent and nobody has read."""
    poll = select.poll()
    try:
        poll.register(line, select.POLLRDHUP)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


def _first(lines: Iterator[messages.Lease], channel: Channel) -> messages.Lease:
    for granted in lines:
        return granted
    raise DaemonUnreachable(
        "the daemon at {path} closed the connection before it granted the lease",
        hint="see `zhcache logs`",
        path=channel.path,
    )


def _socket(answer: Any) -> socket.socket | None:
    stream = answer.extensions.get("network_stream")
    return stream.get_extra_info("socket") if stream is not None else None


_live: weakref.WeakSet[Lease] = weakref.WeakSet()


def _forget_all() -> None:
    for lease in list(_live):
        lease.forget()
    _live.clear()


os.register_at_fork(after_in_child=_forget_all)
