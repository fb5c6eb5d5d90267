"""HTTP/1.1 on a socket: requests come in turn, answers go out as bent as they are asked to be.

A clean answer of a file on disk goes by ``sendfile``.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import termios
import time
from dataclasses import replace
from pathlib import Path

from demohub.exchange import PACE_S, Answer, BadRequest, Request, parse_head

MAX_HEAD_BYTES = 64 << 10
MAX_BODY_BYTES = 1 << 20
_INLINE_BYTES = 128 << 10
_SENDFILE_BYTES = 1 << 20
_CHUNK_BYTES = 256 << 10
_DRAIN_S = 1.0


class ClientGone(Exception):
    """The other side closed, or the hub is stopping."""


class Connection:
    """One client's connection: requests come in turn, answers go out in turn.

    Args:
        sock: The accepted socket, blocking; shutting it down from elsewhere ends all waiting.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_request(self) -> Request | None:
        """The next request, or None when the client has closed.

        Raises:
            BadRequest: It is no HTTP/1.x request, or larger than this hub takes.
        """
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise BadRequest("request head too large")
            if not self._receive():
                return None
        head = bytes(self._buffer[:end]).decode("latin-1")
        del self._buffer[: end + 4]
        request = parse_head(head)
        length = int(request.headers.get("content-length", "0"))
        if length > MAX_BODY_BYTES or "transfer-encoding" in request.headers:
            raise BadRequest("request body too large or chunked")
        while len(self._buffer) < length:
            if not self._receive():
                return None
        request.body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return request

    def _receive(self) -> bool:
        received = self._sock.recv(MAX_HEAD_BYTES)
        self._buffer += received
        return bool(received)

    def send(self, request: Request, answer: Answer, *, keep_alive: bool) -> bool:
        """Sends an answer and counts its body into ``request.sent``.

        Returns:
            Whether the connection can take another request.

        Raises:
            ClientGone: The client left, or the hub stops, while a fault made it wait.
            OSError: The connection broke.
        """
        self._wait(answer.delay_s)
        head = answer.head(keep_alive=keep_alive)
        request.status = answer.status
        if answer.header_interval_s:
            self._drip(head, answer.header_interval_s)
            head = b""
        if request.method == "HEAD":
            self._sock.sendall(head)
            return keep_alive
        limit = min(answer.ending_at, answer.length) if answer.ending else answer.length
        self._send_body(request, answer, head, limit)
        if answer.ending:
            return self._end(request, answer, limit) and keep_alive
        if answer.extra:
            self._sock.sendall(bytes(answer.extra))
            request.sent += answer.extra
        return keep_alive

    def _send_body(self, request: Request, answer: Answer, head: bytes, limit: int) -> None:
        first, last = answer.start, answer.start + limit
        is_bent = answer.rate or answer.line or answer.flips or answer.is_zeroed
        if isinstance(answer.content, bytes) and not is_bent:
            self._send_memory(request, head, answer.content, first, last)
            return
        if is_bent:
            self._sock.sendall(head)
            self._send_bent(request, answer, first, last)
            return
        assert isinstance(answer.content, Path)
        with answer.content.open("rb", buffering=0) as file:
            if last - first <= _INLINE_BYTES:
                small = os.pread(file.fileno(), last - first, first)
                self._send_memory(request, head, small, 0, len(small))
                return
            self._sock.sendall(head, socket.MSG_MORE)
            while first < last:
                step = min(_SENDFILE_BYTES, last - first)
                sent = os.sendfile(self._sock.fileno(), file.fileno(), first, step)
                if not sent:
                    raise ClientGone(f"{answer.content} became shorter while it was served")
                first += sent
                request.sent += sent

    def _send_memory(
        self, request: Request, head: bytes, content: bytes, first: int, last: int
    ) -> None:
        view = memoryview(content)[first:last]
        if len(view) <= _INLINE_BYTES:
            self._sock.sendall(head + view)
            request.sent += len(view)
            return
        self._sock.sendall(head, socket.MSG_MORE)
        while view:
            sent = self._sock.send(view[:_SENDFILE_BYTES])
            request.sent += sent
            view = view[sent:]

    def _send_bent(self, request: Request, answer: Answer, first: int, last: int) -> None:
        paced_from = answer.start + answer.rate_from
        while first < last:
            step = min(_CHUNK_BYTES, last - first)
            pause = 0.0
            if answer.line:
                step = min(step, max(1, int(answer.line.rate * PACE_S)))
                self._wait(answer.line.book(step))
            if answer.rate and first < paced_from:
                step = min(step, paced_from - first)
            elif answer.rate:
                step = min(step, max(1, int(answer.rate * PACE_S)))
                pause = step / answer.rate
            due = time.monotonic() + pause
            self._sock.sendall(_bent_bytes(answer, first, first + step))
            request.sent += step
            first += step
            if pause:
                request.is_settled = answer.rate < _CHUNK_BYTES
                self._wait(due - time.monotonic())

    def _drip(self, head: bytes, interval_s: float) -> None:
        for byte in head:
            self._sock.sendall(bytes([byte]))
            self._wait(interval_s)

    def _end(self, request: Request, answer: Answer, limit: int) -> bool:
        if answer.ending == "reset":
            # A zero linger makes close() send RST instead of FIN and drop what is unsent.
            self._drain()
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if answer.ending == "close":
            return False
        request.is_settled = True
        self._wait(answer.stall_s)
        request.is_settled = False
        rest = replace(answer, start=answer.start + limit, rate_from=0)
        self._send_body(request, rest, b"", rest.length)
        return True

    def _drain(self) -> None:
        """Waits until the client's kernel has all that was sent, if that is soon."""
        deadline = time.monotonic() + _DRAIN_S
        unsent = array.array("i", [1])
        while unsent[0] and time.monotonic() < deadline:
            fcntl.ioctl(self._sock, termios.TIOCOUTQ, unsent)
            self._wait(PACE_S / 10 if unsent[0] else 0)

    def _wait(self, seconds: float | None) -> None:
        """Waits, but no longer than the client and the hub last.

        Raises:
            ClientGone: One of them ended.
        """
        if seconds is not None and seconds <= 0:
            return
        if self._poll.poll(None if seconds is None else max(1, round(seconds * 1000))):
            raise ClientGone("the client closed or the hub stops")

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()


def _bent_bytes(answer: Answer, first: int, last: int) -> bytes:
    if answer.is_zeroed:
        return bytes(last - first)
    if isinstance(answer.content, bytes):
        chunk = bytearray(answer.content[first:last])
    else:
        with answer.content.open("rb", buffering=0) as file:
            chunk = bytearray(os.pread(file.fileno(), last - first, first))
    for offset in answer.flips:
        if first <= offset < last:
            chunk[offset - first] ^= 0xFF
    return bytes(chunk)
