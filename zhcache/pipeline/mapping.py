"""Maps arenas into this process, and remembers which memory is an arena's.

On the CPU an arena is a sealed memfd, mapped privately: pages are shared until this process
writes into one, which then is its own. What is mapped lives as long as the last tensor in it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from zhcache.errors import IntegrityError
from zhcache.pipeline.checksum import checksum
from zhcache.pipeline.wrapping import memory

if TYPE_CHECKING:
    from zhcache.protocol.residency import Arena

CPU = "cpu"
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_MAP_NORESERVE = 0x4000
"""Source: Linux, asm-generic/mman-common.h; Python's mmap does not name it."""

Mapped = list[tuple["Arena", torch.Tensor]]

_places: dict[tuple[str, int], bool] = {}
"""Where arenas are mapped, by device and address, and whether a write there would fault."""


def map_all(arenas: Sequence[tuple[Arena, int]]) -> Mapped:
    """Returns the memory of each arena as ``(bytes,) uint8`` on its device.

    The descriptors stay the caller's, who may close them afterwards.

    Raises:
        IntegrityError: Memory on the CPU is not sealed, or not as large as it should be.
        ZhcacheError: A GPU's driver refused.
    """
    return [(arena, map_arena(arena, fd)) for arena, fd in arenas]


def map_arena(arena: Arena, fd: int) -> torch.Tensor:
    """Returns one arena's memory; see ``map_all``."""
    if arena.device == CPU:
        return _map_pages(arena, fd)
    from zhcache.pipeline import cuda

    return note(cuda.map_arena(arena, fd), read_only=True)


def damaged(mapped: Mapped) -> list[str]:
    """Returns the keys of those whose checksum does not hold. Sealed memory has none."""
    return [a.key for a, flat in mapped if a.checksum and checksum(flat) != a.checksum]


def is_shared(tensor: torch.Tensor) -> bool:
    """Tells whether ``tensor`` lies in an arena, or any that it wraps."""
    return bool(_places) and any(_place(part) in _places for part in memory(tensor))


def is_read_only(tensor: torch.Tensor) -> bool:
    """Tells whether a write into ``tensor`` would fault."""
    return bool(_places) and any(_places.get(_place(part), False) for part in memory(tensor))


def note(flat: torch.Tensor, *, read_only: bool) -> torch.Tensor:
    """Remembers an arena's memory as long as it is mapped; returns it."""
    place = _place(flat)
    _places[place] = read_only
    weakref.finalize(flat.untyped_storage(), _places.pop, place, None)
    return flat


def _place(tensor: torch.Tensor) -> tuple[str, int]:
    # Views, detached twins and parameters all have the storage's own address.
    return str(tensor.device), tensor.untyped_storage().data_ptr()


def _map_pages(arena: Arena, fd: int) -> torch.Tensor:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    # Without the seals another process could shrink it under us, which kills, or change it.
    if seals & SEALS != SEALS or os.fstat(fd).st_size < arena.bytes:
        raise IntegrityError(
            "the memory handed over for {component} is not sealed, or not {size} bytes large",
            hint="`zhcache doctor` tells whether daemon and client are of one version",
            component=arena.table.component,
            size=arena.bytes,
        )
    # No memory is set aside for a copy of it that hardly anybody will make.
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
    pages = mmap.mmap(fd, arena.bytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return note(torch.frombuffer(pages, dtype=torch.uint8), read_only=False)
