"""Files on their way from a worker to the front: gathered, and sent in chunks."""

from __future__ import annotations

import socket
import time

import torch

from zhcache.protocol import frames
from zhcache.protocol.conversion import Begin, Chunk, Discard, End, TensorError, Worked

BUFFER = 2**19
"""Bytes that are gathered before they are sent; a multiple of eight. Measured: what stays in a
core's cache from the cast to the socket is sent at twice the pace of eight MiB."""

PROGRESS_S = 0.2


class Outgoing:
    """One output file after the other, in order.

    What is written lies in one buffer until that is full. It starts at a multiple of eight bytes
    of the file, so that a tensor which is aligned in the file can be written through a typed view.
    """

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._memory = bytearray(BUFFER)
        self._view = memoryview(self._memory)
        self._flat = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._filled = 0
        self._path = ""
        self._is_muted = False

    def begin(self, path: str, size: int) -> None:
        """Begins a file of ``size`` bytes."""
        self._path = path
        self._filled = 0
        self._is_muted = False
        frames.send(self._line, Begin(path=path, size=size))

    def room(self) -> torch.Tensor:
        """Returns where the next bytes go, ``(n,) uint8`` and never empty."""
        return self._flat[self._filled :]

    def view(self) -> memoryview:
        """Returns the same for who writes no tensors."""
        return self._view[self._filled :]

    def wrote(self, count: int) -> None:
        """Takes it that the next ``count`` bytes have been written.

        Raises:
            OSError: The front is gone.
        """
        self._filled += count
        if self._filled == BUFFER:
            self._send()

    def put(self, content: bytes | memoryview) -> None:
        """Writes ``content``.

        Raises:
            OSError: The front is gone.
        """
        rest = memoryview(content)
        while rest:
            view = self.view()
            count = min(len(view), len(rest))
            view[:count] = rest[:count]
            self.wrote(count)
            rest = rest[count:]

    def discard(self, reason: str, path: str | None = None) -> None:
        """Says that a file is not wanted; what is still written to it is not sent.

        Args:
            reason: Why.
            path: Which; None is the one that was begun.

        Raises:
            OSError: The front is gone.
        """
        if path is None and self._is_muted:
            return
        self._is_muted = self._is_muted or path is None
        frames.send(self._line, Discard(path=path or self._path, reason=reason))

    def end(self, tensors: list[TensorError]) -> None:
        """Ends the file.

        Raises:
            OSError: The front is gone.
        """
        self._send()
        if not self._is_muted:
            frames.send(self._line, End(path=self._path, tensors=tensors))

    def _send(self) -> None:
        if self._filled and not self._is_muted:
            frames.send(self._line, Chunk(size=self._filled))
            with self._view[: self._filled] as chunk:
                self._line.sendall(chunk)
        self._filled = 0


class Told:
    """Tells the front now and then how much of the weights has been dealt with; never less."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._told = 0
        self._next = 0.0

    def reached(self, bytes_done: int, *, at_once: bool = False) -> None:
        """Takes note of ``bytes_done``.

        Raises:
            OSError: The front is gone.
        """
        if bytes_done > self._told and (at_once or time.monotonic() >= self._next):
            self._told = bytes_done
            self._next = time.monotonic() + PROGRESS_S
            frames.send(self._line, Worked(bytes_done=bytes_done))
