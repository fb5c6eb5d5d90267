"""CUDA's virtual memory management: memory that goes from process to process as a descriptor.

The driver alone, no torch. A descriptor keeps its memory allocated whether or not any CUDA process
lives, and is the whole permission to it: PROT_READ below keeps an honest process from writing by
mistake, and stops nobody who maps the same descriptor again for himself.

Source: CUDA Driver API, "Virtual Memory Management"; what its manual leaves open is asked of each
driver by tests/gpu.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import uuid
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from zhcache.errors import NoSpace, UsageError, ZhcacheError

_contexts: dict[int, Any] = {}


@functools.cache
def driver() -> ModuleType:
    """Returns cuda-bindings' driver API, initialised.

    Raises:
        UsageError: cuda-bindings or the driver is missing, or the driver finds no device.
    """
    try:
        cuda = importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise UsageError(
            "sharing GPU memory needs cuda-bindings in this environment: {reason}",
            hint="pip install cuda-bindings",
            reason=error,
        ) from error
    try:
        (status,) = cuda.cuInit(0)
    except RuntimeError as error:
        # Its loader's way to say that there is no libcuda.so.1.
        raise UsageError(
            "the CUDA driver cannot be loaded: {reason}",
            hint="see `nvidia-smi`; in a container, libcuda.so.1 has to be passed in",
            reason=str(error).partition("\n")[0],
        ) from error
    if int(status):
        raise UsageError(
            "the CUDA driver does not start: {reason}",
            hint="see `nvidia-smi`",
            reason=status.name,
        )
    return cuda


def count() -> int:
    """Returns how many devices this process sees.

    Raises:
        UsageError: As ``driver``.
        ZhcacheError: The driver refused.
    """
    return int(_checked(driver().cuDeviceGetCount(), "count the GPUs"))


def uuid_of(ordinal: int) -> str:
    """Returns the UUID of a device, as NVML spells a whole GPU's.

    Raises:
        UsageError: As ``driver``.
        ZhcacheError: There is no such device.
    """
    cuda = driver()
    device = _checked(cuda.cuDeviceGet(ordinal), f"find GPU {ordinal}")
    # The first form, where there are two, names a MIG slice by its whole GPU.
    ask = getattr(cuda, "cuDeviceGetUuid_v2", cuda.cuDeviceGetUuid)
    found = _checked(ask(device), f"name GPU {ordinal}")
    return f"GPU-{uuid.UUID(bytes=bytes(found.bytes))}"


def ordinal_of(device: str) -> int:
    """Returns the ordinal that a device's UUID has in this process.

    Raises:
        UsageError: This process does not see it; or as ``driver``.
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

    def __init__(self, handle: Any, size_bytes: int, ordinal: int) -> None:
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
            UsageError: As ``driver``.
            ZhcacheError: The driver refused.
        """
        cuda = driver()
        form = cuda.CUmemAllocationProp()
        form.type = cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        form.location.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        form.location.id = ordinal
        form.requestedHandleTypes = _descriptor_kind(cuda)
        least = cuda.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        granule = int(
            _checked(cuda.cuMemGetAllocationGranularity(form, least), "say its granularity")
        )
        size = -(-max(size_bytes, 1) // granule) * granule
        with _context(ordinal):
            status, handle = cuda.cuMemCreate(size, form, 0)
        if status == cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise NoSpace(
                "the GPU has no {size} MiB free",
                hint="`zhcache ps` shows what is warm on it, `nvidia-smi` who else uses it",
                size=size >> 20,
            )
        return cls(_checked((status, handle), f"allocate {size} bytes"), size, ordinal)

    @classmethod
    def receive(cls, fd: int, size_bytes: int, ordinal: int) -> Allocation:
        """Takes up what a descriptor stands for; the caller keeps the descriptor.

        Args:
            fd: What another process's ``export`` returned.
            size_bytes: The size of that allocation, not less and not more.
            ordinal: The device it is on, as this process counts.

        Raises:
            UsageError: As ``driver``.
            ZhcacheError: It stands for no GPU memory, or for one this process cannot reach.
        """
        cuda = driver()
        with _context(ordinal):
            result = cuda.cuMemImportFromShareableHandle(fd, _descriptor_kind(cuda))
        return cls(_checked(result, "take up shared memory"), size_bytes, ordinal)

    def export(self) -> int:
        """Returns a descriptor of this memory; it is the caller's, and keeps the memory.

        Raises:
            ZhcacheError: The driver refused.
        """
        cuda = driver()
        exported = cuda.cuMemExportToShareableHandle(self._handle, _descriptor_kind(cuda), 0)
        fd = int(_checked(exported, "export memory"))
        # Whether the driver sets it is not documented, and a child that keeps it keeps VRAM.
        os.set_inheritable(fd, False)
        return fd

    def map(self, *, writable: bool) -> Mapping:
        """Returns the memory at an address of this process.

        It stays there for as long as what is returned lives, whatever becomes of ``self``.

        Raises:
            ZhcacheError: The driver refused.
        """
        cuda = driver()
        size, ordinal = self.size_bytes, self.ordinal
        with _context(ordinal), contextlib.ExitStack() as undo:
            # Zero twice: any alignment the driver likes, anywhere.
            base = _checked(cuda.cuMemAddressReserve(size, 0, 0, 0), "reserve addresses")
            undo.callback(cuda.cuMemAddressFree, base, size)
            _checked(cuda.cuMemMap(base, size, 0, self._handle, 0), f"map {size} bytes")
            undo.callback(cuda.cuMemUnmap, base, size)
            access = cuda.CUmemAccessDesc()
            access.location.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
            access.location.id = ordinal
            flags = cuda.CUmemAccess_flags
            access.flags = (
                flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                if writable
                else flags.CU_MEM_ACCESS_FLAGS_PROT_READ
            )
            _checked(cuda.cuMemSetAccess(base, size, [access], 1), "grant access")
            undo.pop_all()
        return Mapping(int(base), size, ordinal)

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


def _release(pid: int, handle: Any) -> None:
    # CUDA does not survive fork: in a child there is nothing to let go of.
    if os.getpid() == pid:
        driver().cuMemRelease(handle)


def _unmap(pid: int, pointer: int, size_bytes: int, ordinal: int) -> None:
    """Unmaps once nothing that was queued can still read there.

    Freeing through torch waits for queued kernels; unmapping does not, and a kernel that reads an
    unmapped address ends the whole context. Where the wait itself fails (a context that is dead
    already, a graph that is being captured) the addresses are left to the end of the process.
    """
    if os.getpid() != pid:
        return
    cuda = driver()
    with contextlib.suppress(ZhcacheError), _context(ordinal):
        _checked(cuda.cuCtxSynchronize(), "finish its work")
        _checked(cuda.cuMemUnmap(pointer, size_bytes), "unmap")
        _checked(cuda.cuMemAddressFree(pointer, size_bytes), "free addresses")


@contextlib.contextmanager
def _context(ordinal: int) -> Iterator[None]:
    """Makes the device's primary context current, which is the one torch uses as well."""
    cuda = driver()
    if ordinal not in _contexts:
        device = _checked(cuda.cuDeviceGet(ordinal), f"find GPU {ordinal}")
        retained = cuda.cuDevicePrimaryCtxRetain(device)
        _contexts[ordinal] = _checked(retained, f"make a context on GPU {ordinal}")
    _checked(cuda.cuCtxPushCurrent(_contexts[ordinal]), f"use GPU {ordinal}")
    try:
        yield
    finally:
        cuda.cuCtxPopCurrent()


def _descriptor_kind(cuda: ModuleType) -> Any:
    return cuda.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR


def _checked(result: tuple[Any, ...], doing: str) -> Any:
    """Returns what a call of the driver returned beside its status.

    Raises:
        ZhcacheError: The status is an error.
    """
    status, *values = result
    if int(status):
        raise ZhcacheError(
            "the CUDA driver refused to {doing}: {reason}",
            hint="`nvidia-smi` and the kernel's log (NVRM, Xid) say more",
            doing=doing,
            reason=status.name,
        )
    return values[0] if values else None
