"""Memory on the CPU that leaves the worker sealed: whoever maps it can rely on it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

import torch

from zhcache.errors import NoSpace

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class MemfdMemory:
    """A ``Memory`` (``zhcached.workers.memory``) on the CPU.

    Args:
        size_bytes: How much; more than nothing.

    Raises:
        NoSpace: The machine has not so much left.
    """

    def __init__(self, size_bytes: int) -> None:
        self._fd = os.memfd_create("zhcache-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Asked for at once: a page that is missing later would end the worker by a signal.
            os.posix_fallocate(self._fd, 0, size_bytes)
            self._pages = mmap.mmap(self._fd, size_bytes)
        except (OSError, MemoryError) as error:
            os.close(self._fd)
            self._fd = -1
            raise _judged(error, size_bytes) from error
        self.flat = torch.frombuffer(self._pages, dtype=torch.uint8)

    def put(self, offset: int, source: torch.Tensor) -> None:
        """Copies ``source (n,) uint8`` on the CPU to ``offset``.

        Raises:
            ValueError: It does not fit, or is not what is asked for.
        """
        if source.dtype != torch.uint8 or source.dim() != 1:
            raise ValueError(f"{source.dtype} {tuple(source.shape)}")
        if not 0 <= offset <= self.flat.numel() - source.numel():
            raise ValueError(f"{source.numel()} bytes at {offset} of {self.flat.numel()}")
        self.flat[offset : offset + source.numel()].copy_(source)

    def finish(self) -> tuple[int, str]:
        """Returns the sealed descriptor, which is the caller's, and an empty checksum.

        Raises:
            BufferError: A view of ``flat`` is still in use.
        """
        self._unmap()
        # Refused as long as anybody has it mapped for writing.
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
        fd, self._fd = self._fd, -1
        return fd, ""

    def close(self) -> None:
        """Lets go of the memory; what ``finish`` returned keeps it. May be called twice."""
        if self._fd >= 0:
            self._unmap()
            os.close(self._fd)
            self._fd = -1

    def _unmap(self) -> None:
        self.__dict__.pop("flat", None)
        self._pages.close()


def _judged(error: OSError | MemoryError, size_bytes: int) -> Exception:
    lacks = (errno.ENOMEM, errno.ENOSPC, errno.EFBIG)
    if isinstance(error, OSError) and error.errno not in lacks:
        return error
    return NoSpace(
        "the machine has no {size} bytes of memory left for weights",
        hint="zhcache stop lets models go; zhcache ps lists them",
        size=size_bytes,
    )
