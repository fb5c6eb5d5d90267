"""One connection's bytes: sending a request, reading a head with a deadline, bodies into buffers.

A ``Wire`` belongs to one thread at a time. Bodies go from the socket straight into the caller's
buffer; only what came together with the head passes through a buffer of ours.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time

from zhcached.clock import Clock
from zhcached.errors import RemoteInvalid, TransportError
from zhcached.transport.dial import Deadline, await_ready
from zhcached.transport.message import (
    CHUNKED,
    MAX_HEAD_BYTES,
    UNTIL_CLOSE,
    Head,
    parse_chunk_size,
    parse_head,
)

_HEAD_READ = 16 * 2**10
_ENOUGH = 256 * 2**10
_GATHER_S = 0.02
_NAP_S = 0.002
_MAX_LINE = 4096
_MAX_INTERIM = 8
_MAX_TRAILER_LINES = 64


class QuietError(TransportError):
    """Nothing came for the time the caller was ready to wait. The exchange is intact."""


class Wire:
    """A connected socket and what was read from it too early.

    Args:
        sock: Connected, TLS done.
        clock: Gives the present.
    """

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._clock = clock
        # Non-blocking at first: the head's deadline is cut into slices in which an abort is seen.
        # Afterwards because a time-out would cost a poll before each of many small reads.
        sock.setblocking(False)
        self._sock = sock
        self._early = bytearray()
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)

    def close(self) -> None:
        """Closes the connection."""
        with contextlib.suppress(OSError):
            self._sock.close()

    def is_idle(self) -> bool:
        """Tells whether nothing is there to read: a kept connection that is still sound.

        A connection the server has closed, or on which it sent more than its answer, is readable.
        """
        pending = isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0
        return not self._early and not pending and not await_ready(self._sock, select.POLLIN, 0)

    def send(self, request: bytes, deadline: Deadline) -> None:
        """Sends all of ``request``.

        Raises:
            TransportError: The connection broke, or the time is over.
        """
        left = memoryview(request)
        while left:
            try:
                left = left[self._sock.send(left) :]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                wait_s = deadline.slice_s("sending the request")
                await_ready(self._sock, select.POLLOUT, wait_s)
            except OSError as error:
                raise TransportError(f"sending the request: {error}") from error

    def read_answer(self, deadline: Deadline) -> Head:
        """Returns the head of the next answer that is final.

        Raises:
            TransportError: The connection broke, or the time is over.
            RemoteInvalid: Not HTTP/1.1, or interim answers without end.
        """
        for _ in range(_MAX_INTERIM):
            head = self.read_head(deadline)
            if head.status >= 200:
                return head
        raise RemoteInvalid("the server keeps sending interim answers")

    def read_head(self, deadline: Deadline) -> Head:
        """Returns the head of the next answer.

        Raises:
            TransportError: The connection broke, or the time is over.
            RemoteInvalid: Not an HTTP/1.1 head, or one over 64 KiB.
        """
        while True:
            end, width = _head_end(self._early)
            if end >= 0:
                head = parse_head(bytes(self._early[:end]))
                del self._early[: end + width]
                return head
            if len(self._early) > MAX_HEAD_BYTES:
                raise RemoteInvalid("the answer's headers are longer than 64 KiB")
            wait_s = deadline.slice_s("waiting for the answer")
            piece = memoryview(bytearray(_HEAD_READ))
            count = self._recv_now(piece)
            if count is None:
                self._readable.poll(wait_s * 1000)
            elif count == 0:
                raise TransportError("the connection was closed before an answer")
            else:
                self._early += piece[:count]

    def recv_into(self, buffer: memoryview, wait_s: float) -> int:
        """Receives at least one byte into ``buffer``; 0 is the end of the connection.

        Small pieces (a TLS record, what a modest line brings) are gathered for a moment, since
        each call costs its caller a write, a hash update and locks.

        Raises:
            QuietError: Nothing came in ``wait_s``.
            TransportError: The connection broke.
        """
        if self._early:
            count = min(len(self._early), len(buffer))
            buffer[:count] = self._early[:count]
            del self._early[:count]
            return count
        count, enough, until = 0, min(len(buffer), _ENOUGH), 0.0
        while count < enough:
            try:
                got = self._recv_now(buffer[count:] if count else buffer)
            except TransportError:
                if count:
                    # What came before the break is worth having; the next call meets it again.
                    break
                raise
            if got is None and count == 0:
                self._await_bytes(wait_s)
                continue
            if got is None and self._clock.monotonic() < until:
                # Not a poll, which would wake this thread for every packet.
                time.sleep(_NAP_S)
                continue
            if not got:
                break
            if count == 0:
                until = self._clock.monotonic() + _GATHER_S
            count += got
        return count

    def _await_bytes(self, wait_s: float) -> None:
        if not self._readable.poll(wait_s * 1000):
            raise QuietError(f"nothing came for {wait_s:g} s")

    def _recv_now(self, buffer: memoryview) -> int | None:
        try:
            return self._sock.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except OSError as error:
            raise TransportError(f"the connection broke: {error}") from error

    def read_line(self, wait_s: float) -> bytes:
        """Returns the next line without its end.

        Raises:
            QuietError: It is not complete yet and nothing came in ``wait_s``.
            TransportError: The connection broke.
            RemoteInvalid: Too long for what a chunked body needs.
        """
        while (end := self._early.find(b"\n")) < 0:
            if len(self._early) > _MAX_LINE:
                raise RemoteInvalid("a chunk of the answer has no end of line")
            piece = memoryview(bytearray(_HEAD_READ))
            count = self._recv_now(piece)
            if count is None:
                self._await_bytes(wait_s)
            elif count == 0:
                raise TransportError("the connection was closed inside a chunked body")
            else:
                self._early += piece[:count]
        line = bytes(self._early[:end])
        del self._early[: end + 1]
        return line.rstrip(b"\r")


def _head_end(raw: bytearray) -> tuple[int, int]:
    usual, bare = raw.find(b"\r\n\r\n"), raw.find(b"\n\n")
    if usual >= 0 and (bare < 0 or usual < bare):
        return usual, 4
    return bare, 2


class Body:
    """The body of one answer, framed.

    Args:
        wire: Stands at the first byte of the body.
        frame: Length in bytes, ``CHUNKED`` or ``UNTIL_CLOSE``.
    """

    def __init__(self, wire: Wire, frame: int) -> None:
        self._wire = wire
        self._frame = frame
        self._left = 0 if frame in (CHUNKED, UNTIL_CLOSE) else frame
        self._inside_chunk = False
        self.is_finished = frame == 0

    def readinto(self, buffer: memoryview, wait_s: float) -> int:
        """Reads at least one byte of the body into ``buffer``; 0 is its end.

        Raises:
            QuietError: Nothing came in ``wait_s``; the same call may be made again.
            TransportError: The connection broke before the body's end.
            RemoteInvalid: The chunks are malformed.
        """
        if self.is_finished:
            return 0
        if self._frame == CHUNKED and self._left == 0 and not self._next_chunk(wait_s):
            return 0
        if self._frame == UNTIL_CLOSE:
            count = self._wire.recv_into(buffer, wait_s)
            self.is_finished = count == 0
            return count
        count = self._wire.recv_into(buffer[: self._left], wait_s)
        if count == 0:
            raise TransportError(f"the connection was closed {self._left} bytes before the end")
        self._left -= count
        self.is_finished = self._frame != CHUNKED and self._left == 0
        return count

    def _next_chunk(self, wait_s: float) -> bool:
        if self._inside_chunk:
            if self._wire.read_line(wait_s):
                raise RemoteInvalid("a chunk of the answer is longer than its size")
            self._inside_chunk = False
        self._left = parse_chunk_size(self._wire.read_line(wait_s))
        self._inside_chunk = True
        if self._left:
            return True
        for _ in range(_MAX_TRAILER_LINES):
            if not self._wire.read_line(wait_s):
                self.is_finished = True
                return False
        raise RemoteInvalid("the answer's trailer does not end")
