"""Frames on a Unix stream socket: four bytes of length, JSON, and descriptors beside them.

One framing for everything that hands over descriptors: client and daemon, daemon and worker. A
frame's descriptors ride on the four bytes of its length, so that the kernel ties them to exactly
this frame. Opens and closes no socket; blocking, one reader and one writer at a time.

Source: unix(7), SCM_RIGHTS: ancillary data is delivered with the bytes it was sent with, and
what does not fit into the receiver's buffer is closed and flagged MSG_CTRUNC.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from zhcache.protocol.names import printable

MAX_FRAME = 16 * 2**20
"""Bytes of JSON in one frame."""

MAX_FDS = 64
"""Descriptors of one frame; the kernel takes at most 253. Source: unix(7), SCM_MAX_FD."""

_LENGTH = struct.Struct(">I")
_FD = array.array("i").itemsize

Received = TypeVar("Received")


class FrameError(ConnectionError):
    """The other side sent what is no frame; nothing more can be read from it."""


def send(line: socket.socket, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
    """Sends one frame; the caller keeps its descriptors.

    Raises:
        OSError: The connection failed.
        ValueError: The message or the number of descriptors is over the limit; nothing was sent.
    """
    send_encoded(line, msgspec.json.encode(message), fds)


def send_encoded(line: socket.socket, body: bytes, fds: Sequence[int] = ()) -> None:
    """Sends one frame whose JSON is made already; the caller keeps its descriptors.

    Raises:
        OSError: As ``send``.
        ValueError: As ``send``.
    """
    if len(body) > MAX_FRAME or len(fds) > MAX_FDS:
        raise ValueError(f"a frame of {len(body)} bytes and {len(fds)} descriptors")
    head = _LENGTH.pack(len(body))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = line.sendmsg([head], rights)
    line.sendall(head[sent:] + body)


def receive(line: socket.socket, kind: Any) -> tuple[Any, list[int]]:
    """Returns the next frame as a ``kind`` and its descriptors, which are now the caller's.

    Args:
        line: A connected socket; its time-out is obeyed for each read.
        kind: A type for msgspec, a union of tagged structs for instance.

    Raises:
        EOFError: The other side closed between two frames.
        FrameError: It closed inside one, or what it sent is over the limit or malformed.
        OSError: The connection failed.
    """
    body, fds = receive_raw(line)
    try:
        return msgspec.json.decode(body, type=kind), fds
    except (msgspec.MsgspecError, RecursionError) as error:
        close_all(fds)
        raise FrameError(f"a malformed frame: {printable(str(error))}") from error


def receive_raw(line: socket.socket) -> tuple[bytes, list[int]]:
    """Returns the next frame's JSON, undecoded, and its descriptors.

    Raises:
        EOFError: As ``receive``.
        FrameError: As ``receive``.
        OSError: As ``receive``.
    """
    fds: list[int] = []
    try:
        head = _head(line, fds)
        (length,) = _LENGTH.unpack(head)
        if length > MAX_FRAME:
            raise FrameError(f"a frame of {length} bytes")  # noqa: TRY301 - closes what came
        return _exactly(line, length), fds
    except BaseException:
        close_all(fds)
        raise


def close_all(fds: Sequence[int]) -> None:
    """Closes descriptors that were received and are not wanted."""
    for fd in fds:
        os.close(fd)


def _head(line: socket.socket, fds: list[int]) -> bytes:
    head = b""
    while len(head) < _LENGTH.size:
        part, ancillary, flags, _ = line.recvmsg(
            _LENGTH.size - len(head), socket.CMSG_SPACE(MAX_FDS * _FD), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                rights = array.array("i")
                rights.frombytes(payload[: len(payload) - len(payload) % _FD])
                fds.extend(rights)
        if flags & socket.MSG_CTRUNC or len(fds) > MAX_FDS:
            raise FrameError(f"more than {MAX_FDS} descriptors beside one frame")
        if not part:
            if head:
                raise FrameError("the connection ended inside a frame")
            raise EOFError("the connection ended")
        head += part
    return head


def _exactly(line: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        part = line.recv(min(count - len(received), 1 << 20))
        if not part:
            raise FrameError("the connection ended inside a frame")
        received += part
    return bytes(received)
