"""A checksum of an arena, as fast as the memory it lies in can be read.

It finds accidents: a changed, lost, moved or stale tensor. It is no defence against somebody who
may write into the memory and knows this file; against those there is ``share = "off"``.
"""

from __future__ import annotations

import torch

ROW = 64
"""Words in a row: the 512 bytes that tensors are aligned to."""

CHUNK_ROWS = 2**24
"""Rows summed at once: what is between stays a small part of the memory that is summed."""


def checksum(flat: torch.Tensor) -> str:
    """Returns the checksum of ``flat (bytes,) uint8``, equal on every device.

    The memory is seen as rows of 64-bit words. The sums of the rows, each weighted by where its
    row stands, and those of the columns likewise, both modulo 2**64: a changed word changes both,
    and rows, columns and words that swap places change one of them.

    Raises:
        ValueError: It is not a whole number of rows, or not bytes.
    """
    if flat.dtype != torch.uint8 or flat.dim() != 1 or flat.numel() % (8 * ROW):
        raise ValueError(f"{flat.numel()} {flat.dtype} are not rows of {8 * ROW} bytes")
    rows = flat.view(torch.int64).view(-1, ROW)
    columns = torch.zeros(ROW, dtype=torch.int64, device=flat.device)
    weighted = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, rows.shape[0], CHUNK_ROWS):
        part = rows[start : start + CHUNK_ROWS]
        weighted += (part.sum(dim=1) * _weights(part.shape[0], flat.device, start)).sum()
        columns += part.sum(dim=0)
    across = (columns * _weights(ROW, flat.device)).sum()
    return "".join(f"{int(word) % 2**64:016x}" for word in (weighted, across))


def _weights(count: int, device: torch.device, start: int = 0) -> torch.Tensor:
    # Odd, so that no change of a sum is lost modulo 2**64.
    return torch.arange(start, start + count, device=device, dtype=torch.int64) * 2 + 1
