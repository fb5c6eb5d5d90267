"""CUDA's virtual memory management: memory that goes from process to process as a descriptor.

The driver alone, no torch. A descriptor keeps its memory allocated whether or not any CUDA process
lives, and is the whole permission to it: PROT_READ below keeps an honest process from writing by
mistake, and stops nobody who maps the same descriptor again for himself.

Source: CUDA Driver API, "Virtual Memory Management"; what its manual leaves open is asked of each
driver by tests/gpu.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import uuid
import weakref
from collections.abc import Iterator

from zhcache.errors import UsageError, ZhcacheError
from zhcache.pipeline import libcuda
from zhcache.pipeline.libcuda import ask

_contexts: dict[int, ctypes.c_void_p] = {}


def count() -> int:
    """Returns how many devices this process sees.

    Raises:
        UsageError: There is no driver that could be used.
        ZhcacheError: The driver refused.
    """
    found = ctypes.c_int()
    ask("cuDeviceGetCount", "count the GPUs", ctypes.byref(found))
    return found.value


def uuid_of(ordinal: int) -> str:
    """Returns the UUID of a device, as NVML spells a whole GPU's.

    Raises:
        UsageError: As ``count``.
        ZhcacheError: There is no such device.
    """
    raw = ctypes.create_string_buffer(16)
    ask("cuDeviceGetUuid_v2", f"name GPU {ordinal}", raw, _device(ordinal))
    return f"GPU-{uuid.UUID(bytes=raw.raw)}"


def ordinal_of(device: str) -> int:
    """Returns the ordinal that a device's UUID has in this process.

    Raises:
        UsageError: This process does not see it; or as ``count``.
        ZhcacheError: The driver refused.
    """
    seen = [uuid_of(ordinal) for ordinal in range(count())]
    for ordinal, name in enumerate(seen):
        # NVML says MIG- where CUDA says GPU-; what follows is the same.
        if name.partition("-")[2] == device.lower().partition("-")[2]:
            return ordinal
    raise UsageError(
        "this process does not see the GPU {device}",
        hint="it sees: {seen}; CUDA_VISIBLE_DEVICES chooses",
        device=device,
        seen=", ".join(seen) or "none",
    )


class Allocation:
    """Physical memory of one device. ``close`` lets this process's hold on it go."""

    def __init__(self, handle: int, size_bytes: int, ordinal: int) -> None:
        self.size_bytes = size_bytes
        self.ordinal = ordinal
        self._handle = handle
        self._release = weakref.finalize(self, _release, os.getpid(), handle)
        self._release.atexit = False

    @classmethod
    def create(cls, size_bytes: int, ordinal: int) -> Allocation:
        """Allocates at least ``size_bytes``; ``size_bytes`` of what it returns says how many.

        Raises:
            NoSpace: The device has not so much free.
            UsageError: As ``count``.
            ZhcacheError: The driver refused.
        """
        form = libcuda.Form(libcuda.PINNED, libcuda.DESCRIPTOR, _place(ordinal))
        granule = ctypes.c_size_t()
        ask(
            "cuMemGetAllocationGranularity",
            "say its granularity",
            ctypes.byref(granule),
            ctypes.byref(form),
            libcuda.MINIMUM,
        )
        size = -(-max(size_bytes, 1) // granule.value) * granule.value
        handle = ctypes.c_uint64()
        with _context(ordinal):
            doing = f"allocate {size >> 20} MiB"
            ask("cuMemCreate", doing, ctypes.byref(handle), size, ctypes.byref(form), 0)
        return cls(handle.value, size, ordinal)

    @classmethod
    def receive(cls, fd: int, size_bytes: int, ordinal: int) -> Allocation:
        """Takes up what a descriptor stands for; the caller keeps the descriptor.

        Args:
            fd: What another process's ``export`` returned.
            size_bytes: The size of that allocation, not less and not more.
            ordinal: The device it is on, as this process counts.

        Raises:
            UsageError: As ``count``.
            ZhcacheError: It stands for no GPU memory, or for one this process cannot reach.
        """
        handle = ctypes.c_uint64()
        kind = libcuda.DESCRIPTOR
        with _context(ordinal):
            name, doing = "cuMemImportFromShareableHandle", "take up shared memory"
            ask(name, doing, ctypes.byref(handle), fd, kind)
        return cls(handle.value, size_bytes, ordinal)

    def export(self) -> int:
        """Returns a descriptor of this memory; it is the caller's, and keeps the memory.

        Raises:
            ZhcacheError: The driver refused.
        """
        fd = ctypes.c_int(-1)
        name, kind = "cuMemExportToShareableHandle", libcuda.DESCRIPTOR
        ask(name, "export memory", ctypes.byref(fd), self._handle, kind, 0)
        # Whether the driver sets it is not documented, and a child that keeps it keeps VRAM.
        os.set_inheritable(fd.value, False)
        return fd.value

    def map(self, *, writable: bool) -> Mapping:
        """Returns the memory at an address of this process.

        It stays there for as long as what is returned lives, whatever becomes of ``self``.

        Raises:
            ZhcacheError: The driver refused.
        """
        size, ordinal = self.size_bytes, self.ordinal
        flags = libcuda.READ_WRITE if writable else libcuda.READ
        access = libcuda.Access(_place(ordinal), flags)
        base = ctypes.c_uint64()
        with _context(ordinal), contextlib.ExitStack() as undo:
            # Zero twice: any alignment the driver likes, anywhere.
            ask("cuMemAddressReserve", "reserve addresses", ctypes.byref(base), size, 0, 0, 0)
            undo.callback(libcuda.status_of, "cuMemAddressFree", base, size)
            ask("cuMemMap", f"map {size} bytes", base, size, 0, self._handle, 0)
            undo.callback(libcuda.status_of, "cuMemUnmap", base, size)
            ask("cuMemSetAccess", "grant access", base, size, ctypes.byref(access), 1)
            undo.pop_all()
        return Mapping(base.value, size, ordinal)

    def close(self) -> None:
        """Lets it go; a second call does nothing. Mappings and descriptors keep the memory."""
        self._release()


class Mapping:
    """Memory at an address. Unmapped by ``close``, or when the object is collected."""

    def __init__(self, pointer: int, size_bytes: int, ordinal: int) -> None:
        self.pointer = pointer
        self.size_bytes = size_bytes
        self.ordinal = ordinal
        self.close = weakref.finalize(self, _unmap, os.getpid(), pointer, size_bytes, ordinal)
        # At exit other threads may still compute on it, and the process's end unmaps anyway.
        self.close.atexit = False


def _release(pid: int, handle: int) -> None:
    # CUDA does not survive fork: in a child there is nothing to let go of.
    if os.getpid() == pid:
        libcuda.status_of("cuMemRelease", handle)


def _unmap(pid: int, pointer: int, size_bytes: int, ordinal: int) -> None:
    """Unmaps once nothing that was queued can still read there.

    Freeing through torch waits for queued kernels; unmapping does not, and a kernel that reads an
    unmapped address ends the whole context. Where the wait itself fails (a context that is dead
    already, a graph that is being captured) the addresses are left to the end of the process.
    """
    if os.getpid() != pid:
        return
    with contextlib.suppress(ZhcacheError), _context(ordinal):
        ask("cuCtxSynchronize", "finish its work")
        ask("cuMemUnmap", "unmap", pointer, size_bytes)
        ask("cuMemAddressFree", "free addresses", pointer, size_bytes)


@contextlib.contextmanager
def _context(ordinal: int) -> Iterator[None]:
    """Makes the device's primary context current, which is the one torch uses as well."""
    if ordinal not in _contexts:
        made = ctypes.c_void_p()
        doing = f"make a context on GPU {ordinal}"
        ask("cuDevicePrimaryCtxRetain", doing, ctypes.byref(made), _device(ordinal))
        _contexts[ordinal] = made
    ask("cuCtxPushCurrent_v2", f"use GPU {ordinal}", _contexts[ordinal])
    try:
        yield
    finally:
        libcuda.status_of("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


def _device(ordinal: int) -> ctypes.c_int:
    found = ctypes.c_int()
    ask("cuDeviceGet", f"find GPU {ordinal}", ctypes.byref(found), ordinal)
    return found


def _place(ordinal: int) -> libcuda.Location:
    return libcuda.Location(libcuda.DEVICE, ordinal)
