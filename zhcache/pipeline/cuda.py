"""Arenas in GPU memory as torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zhcache.errors import UsageError, ZhcacheError
from zhcache.pipeline import vmm

if TYPE_CHECKING:
    from zhcache.protocol.residency import Arena


class _Bytes:
    """What torch is shown, and keeps through every view of the tensor it makes of it.

    Source: numba's documentation, "CUDA Array Interface (Version 3)". torch refuses the flag for
    read-only memory, so it is shown as writable; the mapping knows better.
    """

    def __init__(self, mapping: vmm.Mapping) -> None:
        self._mapping = mapping
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (mapping.size_bytes,),
            "typestr": "|u1",
            "data": (mapping.pointer, False),
            "version": 3,
        }


def map_arena(arena: Arena, fd: int) -> torch.Tensor:
    """Returns an arena's memory as ``(bytes,) uint8`` on its GPU, mapped for reading.

    A kernel that writes there ends this process's CUDA context for good, and no other's: see
    ``zhcache.pipeline.private``. The memory is unmapped when the last view of the tensor dies.

    Args:
        arena: What the descriptor stands for; ``device`` is the GPU's UUID.
        fd: Stays the caller's, who may close it afterwards.

    Raises:
        UsageError: This process does not see that GPU, or its torch or driver cannot.
        ZhcacheError: The driver refused.
    """
    needs_cuda()
    ordinal = vmm.ordinal_of(arena.device)
    allocation = vmm.Allocation.receive(fd, arena.bytes, ordinal)
    try:
        return as_tensor(allocation.map(writable=False))
    finally:
        allocation.close()


def as_tensor(mapping: vmm.Mapping) -> torch.Tensor:
    """Returns a mapping as ``(size_bytes,) uint8``, which from now on owns it.

    Raises:
        ZhcacheError: torch made a copy.
    """
    device = torch.device("cuda", mapping.ordinal)
    flat = torch.as_tensor(_Bytes(mapping), device=device)
    if flat.data_ptr() != mapping.pointer or flat.device != device:
        # A copy would work and cost the memory that all this is to save.
        raise ZhcacheError(
            "torch {version} copies memory that it was to use in place",
            hint="use mode='resident', and tell us the versions of torch and driver",
            version=torch.__version__,
        )
    return flat


def uuid_of(device: torch.device | str) -> str:
    """Returns the UUID of a torch device; ``cuda`` alone is the current one.

    Raises:
        UsageError: It is no CUDA device, or this torch or driver cannot.
        ZhcacheError: There is no such device.
    """
    named = torch.device(device)
    if named.type != "cuda":
        raise UsageError("{device} is not a CUDA device", device=named)
    needs_cuda()
    return vmm.uuid_of(torch.cuda.current_device() if named.index is None else named.index)


def needs_cuda() -> None:
    """Starts torch's CUDA in this process, if it has not been.

    Raises:
        UsageError: This torch has none, or this process cannot have it.
    """
    if not torch.cuda.is_available():
        raise UsageError(
            "this torch ({version}) sees no CUDA device",
            hint="install the CUDA build of torch, or use device='cpu'",
            version=torch.__version__,
        )
    try:
        torch.cuda.init()
    except RuntimeError as error:
        raise UsageError(
            "CUDA cannot be used in this process: {reason}",
            hint="a process that is forked after its parent used CUDA cannot; start it by spawn",
            reason=str(error).partition("\n")[0],
        ) from error
