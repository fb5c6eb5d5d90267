"""One answer: its head, and its body as it is read. A ``Response`` belongs to one thread."""

from __future__ import annotations

import contextlib
import zlib
from typing import Protocol, Self

from zhcached.errors import RemoteInvalid, TransportError
from zhcached.transport.address import Origin
from zhcached.transport.dial import Deadline
from zhcached.transport.message import Head
from zhcached.transport.wire import QuietError

ERROR_BODY_BYTES = 64 * 2**10


class Readable(Protocol):
    """A body as it is read."""

    @property
    def is_finished(self) -> bool:
        """Whether it was read to its end."""
        ...

    def readinto(self, buffer: memoryview, wait_s: float, /) -> int:
        """Reads at least one byte into ``buffer``; 0 is the end."""
        ...


class Release(Protocol):
    """Takes the connection of an answer back."""

    def __call__(self, *, reusable: bool) -> None:
        """Keeps it where it is ``reusable``, else closes it."""
        ...


class Response:
    """An answer whose body is still to be read. Close it; a finished one keeps its connection.

    Attributes:
        status: The HTTP status.
        headers: By name in any case.
        url: Where the answer came from, after redirects.
        origin: Of that URL.
    """

    def __init__(
        self,
        head: Head,
        body: Readable,
        *,
        url: str,
        origin: Origin,
        release: Release,
        read_timeout_s: float,
    ) -> None:
        self.status = head.status
        self.headers = head.headers
        self.url = url
        self.origin = origin
        self._body = body
        self._release: Release | None = release
        self._read_timeout_s = read_timeout_s
        self._keeps_alive = head.keeps_alive

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def readinto(self, buffer: memoryview) -> int:
        """Reads at least one byte of the body into ``buffer``; 0 is its end.

        Raises:
            QuietError: Nothing came for the read time-out; the same call may be made again.
            TransportError: The connection broke before the body's end.
            RemoteInvalid: The chunks are malformed.
        """
        return self._body.readinto(buffer, self._read_timeout_s)

    def read_limited(self, max_bytes: int, deadline: Deadline | None = None) -> bytes:
        """Returns the whole body, unpacked if it comes in gzip.

        Raises:
            RemoteInvalid: It is longer than ``max_bytes``, or no gzip though it says so.
            TransportError: The connection broke, fell silent, or the deadline passed.
        """
        whole = bytearray()
        piece = bytearray(64 * 2**10)
        while True:
            if deadline is not None:
                deadline.slice_s("reading the answer")
            try:
                count = self.readinto(memoryview(piece))
            except QuietError:
                if deadline is None:
                    raise
                continue
            if count == 0:
                packed = self.headers.get("content-encoding", "").lower() == "gzip"
                return unpacked(bytes(whole), max_bytes) if packed else bytes(whole)
            if len(whole) + count > max_bytes:
                raise RemoteInvalid(f"the answer is longer than {max_bytes} bytes")
            whole += piece[:count]

    def close(self) -> None:
        """Gives the connection back if the body was read to its end, else closes it."""
        release, self._release = self._release, None
        if release is not None:
            release(reusable=self._body.is_finished and self._keeps_alive)


def unpacked(body: bytes, max_bytes: int) -> bytes:
    """Returns what ``body``, one member of gzip, holds. Pure.

    Raises:
        RemoteInvalid: It is not whole, no gzip, or holds more than ``max_bytes``.
    """
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RemoteInvalid(f"the answer is no sound gzip: {error}") from error
    if len(content) > max_bytes:
        raise RemoteInvalid(f"the answer is longer than {max_bytes} bytes")
    if not unpacker.eof:
        raise RemoteInvalid("the answer's gzip breaks off")
    return content


def drain(response: Response) -> None:
    """Reads a redirect's small body so that its connection can be kept; a large one is cut."""
    buffer = memoryview(bytearray(8 * 2**10))
    with response, contextlib.suppress(TransportError, RemoteInvalid):
        if response.headers.get("content-length", "9").strip() in ("0", ""):
            return
        for _ in range(2):
            if response.readinto(buffer) == 0:
                return


def beginning(response: Response, deadline: Deadline) -> bytes:
    """Returns the first ``ERROR_BODY_BYTES`` of the body, or what came before it broke off.

    Raises:
        TransportError: The deadline passed.
        RemoteInvalid: The chunks are malformed.
    """
    whole = bytearray()
    piece = memoryview(bytearray(8 * 2**10))
    while len(whole) < ERROR_BODY_BYTES:
        deadline.slice_s("reading the answer")
        try:
            count = response.readinto(piece)
        except QuietError:
            continue
        except TransportError:
            break
        if count == 0:
            break
        whole += piece[:count]
    return bytes(whole[:ERROR_BODY_BYTES])
