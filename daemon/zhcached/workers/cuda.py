"""GPU memory that a fill worker writes once and that outlives it.

The worker allocates, copies, exports a descriptor and ends: the half gigabyte that its context
costs on the GPU goes with it, and the front holds the weights without any CUDA.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from zhcache.pipeline import cuda, vmm
from zhcache.pipeline.checksum import checksum
from zhcached.workers.staging import Link, Staging


class CudaMemory:
    """A ``Memory`` (``zhcached.workers.memory``) of one GPU.

    Args:
        allocation: The memory, which becomes this object's.
        wrap: Makes a tensor of a mapping.
        reach: Makes the way to it.
    """

    def __init__(
        self,
        allocation: vmm.Allocation,
        wrap: Callable[[vmm.Mapping], torch.Tensor] = cuda.as_tensor,
        reach: Callable[[torch.Tensor], Link] | None = None,
    ) -> None:
        self._allocation = allocation
        try:
            self.flat = wrap(allocation.map(writable=True))
            # Memory of the driver may hold what other processes left, and padding is exported too.
            self.flat.zero_()
            self._staging = Staging((reach or PinnedLink)(self.flat), allocation.size_bytes)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, size_bytes: int, device: str) -> CudaMemory:
        """Allocates on the GPU with the UUID ``device``.

        Raises:
            NoSpace: It has not so much free.
            UsageError: This process does not see it, or its torch or driver cannot.
            ZhcacheError: The driver refused.
        """
        cuda.needs_cuda()
        return cls(vmm.Allocation.create(size_bytes, vmm.ordinal_of(device)))

    def put(self, offset: int, source: torch.Tensor) -> None:
        """Copies ``source (n,) uint8`` on the CPU to ``offset``. It may be let go afterwards.

        Raises:
            ValueError: It does not fit, or is not what is asked for.
        """
        is_flat = source.dtype == torch.uint8 and source.dim() == 1 and source.is_contiguous()
        if not is_flat or source.device.type != "cpu":
            raise ValueError(f"{source.dtype} {tuple(source.shape)} on {source.device}")
        if not 0 <= offset <= self.flat.numel() - source.numel():
            raise ValueError(f"{source.numel()} bytes at {offset} of {self.flat.numel()}")
        self._staging.put(offset, source)

    def finish(self) -> tuple[int, str]:
        """Returns a descriptor, which is the caller's, and the arena's checksum.

        Raises:
            ZhcacheError: The driver refused.
        """
        self._staging.flush()
        told = checksum(self.flat)
        fd = self._allocation.export()
        self.close()
        return fd, told

    def close(self) -> None:
        """Lets go of the memory; what ``finish`` returned keeps it."""
        # The last view unmaps it.
        self.__dict__.pop("flat", None)
        self.__dict__.pop("_staging", None)
        self._allocation.close()


class PinnedLink:
    """Two pinned buffers and a stream of their own."""

    def __init__(self, flat: torch.Tensor) -> None:
        self._flat = flat
        self._stream = torch.cuda.Stream(flat.device)
        # The memory is cleared on the current stream, and a copy must not overtake that.
        self._stream.wait_stream(torch.cuda.current_stream(flat.device))
        self._done = [torch.cuda.Event(), torch.cuda.Event()]

    def buffer(self, which: int, size_bytes: int) -> torch.Tensor:
        """Returns a pinned buffer ``(size_bytes,) uint8``."""
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def send(self, which: int, offset: int, staged: torch.Tensor) -> None:
        """Begins to copy ``staged`` to ``offset``."""
        with torch.cuda.stream(self._stream):
            self._flat[offset : offset + staged.numel()].copy_(staged, non_blocking=True)
            self._done[which].record(self._stream)

    def arrived(self, which: int) -> None:
        """Returns when the last copy from that buffer is done; at once where there was none."""
        self._done[which].synchronize()
