"""Memory on the CPU that leaves the worker sealed: whoever maps it can rely on it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
from pathlib import Path

import torch

from zhcache.errors import NoSpace

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


_AVAILABLE = re.compile(rb"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)


class MemfdMemory:
    """A ``Memory`` (``zhcached.workers.memory``) on the CPU.

    Args:
        size_bytes: How much; more than nothing.

    Raises:
        NoSpace: The machine has not so much left.
    """

    def __init__(self, size_bytes: int) -> None:
        # The kernel would give page after page until it has to kill somebody.
        if size_bytes > available():
            raise _no_space(size_bytes)
        self._fd = os.memfd_create("zhcache-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Asked for at once: a page that is missing later would end the worker by a signal.
            os.posix_fallocate(self._fd, 0, size_bytes)
            pages = mmap.mmap(self._fd, size_bytes)
        except (OSError, MemoryError) as error:
            os.close(self._fd)
            self._fd = -1
            raise _judged(error, size_bytes) from error
        # Never closed by hand, which would take it from under a tensor: it ends with the last one.
        self.flat = torch.frombuffer(pages, dtype=torch.uint8)

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
            OSError: A view of ``flat`` is still in use, so that it could still be written.
        """
        self.__dict__.pop("flat", None)
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
        fd, self._fd = self._fd, -1
        return fd, ""

    def close(self) -> None:
        """Lets go of the memory; what ``finish`` returned keeps it. May be called twice."""
        self.__dict__.pop("flat", None)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _judged(error: OSError | MemoryError, size_bytes: int) -> Exception:
    lacks = (errno.ENOMEM, errno.ENOSPC, errno.EFBIG)
    if isinstance(error, OSError) and error.errno not in lacks:
        return error
    return _no_space(size_bytes)


def available() -> int:
    """Returns the bytes of memory that the machine can give without swapping.

    Source: proc(5), ``MemAvailable``.
    """
    found = _AVAILABLE.search(Path("/proc/meminfo").read_bytes())
    return int(found[1]) * 1024 if found else 0


def _no_space(size_bytes: int) -> NoSpace:
    return NoSpace(
        "the machine has no {size} bytes of memory left for weights",
        hint="zhcache stop lets models go; zhcache ps lists them",
        size=size_bytes,
    )
