"""Two buffers between the page cache and a device: one fills while the other is on its way.

Copies from pageable memory reach a tenth of what the link gives, from pinned memory all of it
(measured: 5 and 52 GB/s on PCIe 5). Pinning the weights themselves costs more than it gains.
Neighbouring tensors leave together, so that a thousand small ones do not become a thousand copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

BUFFER_BYTES = 32 * 2**20
"""Of each of the two. Pinning costs half a second a GiB, so a small model must not wait for it."""

GAP_BYTES = 4096
"""Padding up to this is sent as zeros rather than by a copy of its own."""


class Link(Protocol):
    """The way to the device. One copy for each of two buffers can be on its way."""

    def buffer(self, which: int, size_bytes: int) -> torch.Tensor:
        """Returns a buffer ``(size_bytes,) uint8`` that is fit to be sent from."""
        ...

    def send(self, which: int, offset: int, staged: torch.Tensor) -> None:
        """Begins to copy ``staged`` to ``offset`` of the device's memory."""
        ...

    def arrived(self, which: int) -> None:
        """Returns when the last copy from that buffer is done."""
        ...


class Staging:
    """Takes tensors in any order and sends them in runs."""

    def __init__(self, link: Link, size_bytes: int) -> None:
        self._link = link
        room = min(BUFFER_BYTES, size_bytes)
        self._buffers = [link.buffer(which, room) for which in range(2)]
        self._which = 0
        self._base = 0
        self._filled = 0

    def put(self, offset: int, source: torch.Tensor) -> None:
        """Takes ``source (n,) uint8``; it may be let go when this returns."""
        taken, count = 0, source.numel()
        if count:
            # An empty tensor lies anywhere; going there would break the run.
            self._pad(offset)
        while taken < count:
            buffer = self._buffers[self._which]
            part = min(count - taken, buffer.numel() - self._filled)
            # torch copies with all its threads: one alone reads the page cache at 6 GB/s.
            buffer[self._filled : self._filled + part].copy_(source[taken : taken + part])
            self._filled += part
            taken += part
            if self._filled == buffer.numel():
                self._turn()

    def flush(self) -> None:
        """Sends what is left and waits until all has arrived."""
        self._turn()
        for which in range(2):
            self._link.arrived(which)

    def _pad(self, offset: int) -> None:
        """Makes ``offset`` the next place of the buffer."""
        gap = offset - (self._base + self._filled)
        buffer = self._buffers[self._which]
        if self._filled and 0 <= gap <= GAP_BYTES and self._filled + gap < buffer.numel():
            # What the buffer held before is another tensor, not padding.
            buffer[self._filled : self._filled + gap].zero_()
            self._filled += gap
        elif gap:
            self._turn()
            self._base = offset

    def _turn(self) -> None:
        """Sends what the buffer holds and takes the other, once its last copy is done."""
        if self._filled:
            staged = self._buffers[self._which][: self._filled]
            self._link.send(self._which, self._base, staged)
            self._which = 1 - self._which
            self._link.arrived(self._which)
        self._base += self._filled
        self._filled = 0
