"""What a fill writes into on a GPU, checked in a process of its own.

``python -m harness.fill_checks NAME...``. Against the stand-in, whose memory is the CPU's, torch is
shown it as such; against a driver everything is as it is in a worker.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable

import torch

from harness.vmm_checks import counts, raises, read, received
from zhcache.errors import NoSpace, UsageError
from zhcache.pipeline import vmm
from zhcache.pipeline.checksum import checksum
from zhcached.workers import staging
from zhcached.workers.cuda import CudaMemory

SIZE = 5 << 20


class HostLink:
    """Copies at once, as there is no device."""

    def __init__(self, flat: torch.Tensor) -> None:
        self._flat = flat

    def buffer(self, which: int, size_bytes: int) -> torch.Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8)

    def send(self, which: int, offset: int, staged: torch.Tensor) -> None:
        self._flat[offset : offset + staged.numel()].copy_(staged)

    def arrived(self, which: int) -> None:
        pass


def on_host(mapping: vmm.Mapping) -> torch.Tensor:
    """Shows the stand-in's memory to torch."""
    area = (ctypes.c_char * mapping.size_bytes).from_address(mapping.pointer)
    area.owner = mapping
    return torch.frombuffer(area, dtype=torch.uint8)


def opened(size: int = SIZE) -> CudaMemory:
    """Returns memory of the first device, by whichever driver there is."""
    if torch.cuda.is_available():
        return CudaMemory.open(size, vmm.uuid_of(0))
    return CudaMemory(vmm.Allocation.create(size, 0), on_host, HostLink)


def pieces() -> list[tuple[int, torch.Tensor]]:
    """Returns tensors of all sizes, aligned as in an arena, and one beyond a buffer."""
    torch.manual_seed(0)
    found, at = [], 512
    for size in (1, 2, 511, 512, 513, 4096, 70_000, 3 * 2**20 + 7):
        found.append((at, torch.randint(0, 256, (size,), dtype=torch.uint8)))
        at += -(-size // 512) * 512
    return found


def fill_is_what_was_put() -> None:
    staging.BUFFER_BYTES = 1 << 20
    memory = opened()
    whole = torch.zeros(memory.flat.numel(), dtype=torch.uint8)
    assert memory.flat.numel() >= SIZE
    for offset, piece in pieces():
        memory.put(offset, piece)
        whole[offset : offset + piece.numel()] = piece
    fd, told = memory.finish()
    # All of it, padding included: what another process left there must not be handed on.
    assert told == checksum(whole)
    mapping = received(fd, whole.numel())
    os.close(fd)
    assert read(mapping, whole.numel()) == whole.numpy().tobytes()


def fill_leaves_nothing_behind() -> None:
    memory = opened()
    memory.put(0, torch.ones(10, dtype=torch.uint8))
    fd, _ = memory.finish()
    gc.collect()
    assert counts()[:3] == [0, 0, 0]
    os.close(fd)
    memory.close()
    # A fill that breaks off.
    broken = opened()
    broken.close()
    broken.close()
    gc.collect()
    assert counts()[:3] == [0, 0, 0]


def fill_refuses_what_does_not_fit() -> None:
    memory = opened()
    size = memory.flat.numel()
    wrong: list[tuple[int, torch.Tensor]] = [
        (size - 3, torch.ones(4, dtype=torch.uint8)),
        (-1, torch.ones(4, dtype=torch.uint8)),
        (0, torch.ones(4)),
        (0, torch.ones(2, 2, dtype=torch.uint8)),
        (0, torch.ones(8, dtype=torch.uint8)[::2]),
    ]
    for offset, source in wrong:
        try:
            memory.put(offset, source)
        except ValueError:
            continue
        raise AssertionError((offset, source))
    memory.put(size - 4, torch.full((4,), 9, dtype=torch.uint8))
    fd, _ = memory.finish()
    assert read(received(fd, size), 4, size - 4) == b"\x09" * 4


def fill_needs_room() -> None:
    with raises(NoSpace, "no memory left", "MiB"):
        opened(1 << 50)


def export_fails() -> None:
    memory = opened()
    try:
        memory.finish()
    except Exception:
        memory.close()
    else:
        raise AssertionError("nothing failed")
    gc.collect()
    assert counts()[:3] == [0, 0, 0]


def torch_without_cuda_is_told() -> None:
    with raises(UsageError, "sees no CUDA device"):
        CudaMemory.open(SIZE, vmm.uuid_of(0))


SHARED = (fill_is_what_was_put, fill_refuses_what_does_not_fit, fill_needs_room)
"""What is asked of a GPU as well."""


def main(names: list[str]) -> None:
    """Runs checks, in this order."""
    for name in names:
        print(name, flush=True)
        check: Callable[[], None] = globals()[name]
        check()


if __name__ == "__main__":
    main(sys.argv[1:])
