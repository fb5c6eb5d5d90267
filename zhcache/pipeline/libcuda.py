"""The few calls of the CUDA driver that memory as a descriptor needs, by ctypes.

cuda-bindings has them all and takes 95 ms of computing to import, most of what an attach may take;
this takes twelve. The structures are those of the API's first version, which every driver keeps.

Source: CUDA Driver API, cuda.h: CUmemLocation_v1, CUmemAllocationProp_v1, CUmemAccessDesc_v1.
"""

from __future__ import annotations

import ctypes
import functools

from zhcache.errors import NoSpace, UsageError, ZhcacheError

OUT_OF_MEMORY = 2

PINNED = 1
"""CU_MEM_ALLOCATION_TYPE_PINNED: on the device, and there to stay."""

DEVICE = 1
"""CU_MEM_LOCATION_TYPE_DEVICE."""

DESCRIPTOR = 1
"""CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR."""

MINIMUM = 0
"""CU_MEM_ALLOC_GRANULARITY_MINIMUM."""

READ, READ_WRITE = 1, 3
"""CU_MEM_ACCESS_FLAGS_PROT_READ and _READWRITE."""


class Location(ctypes.Structure):
    """Which device."""

    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class Form(ctypes.Structure):
    """CUmemAllocationProp: what kind of memory, where, and how it can be handed over."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("handles", ctypes.c_int),
        ("location", Location),
        ("windows", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class Access(ctypes.Structure):
    """CUmemAccessDesc: which device may do what."""

    _fields_ = (("location", Location), ("flags", ctypes.c_int))


_int, _size, _word = ctypes.c_int, ctypes.c_size_t, ctypes.c_uint64
_to = ctypes.POINTER
_CALLS: dict[str, tuple[object, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuGetErrorName": (_int, _to(ctypes.c_char_p)),
    "cuDeviceGetCount": (_to(_int),),
    "cuDeviceGet": (_to(_int), _int),
    # The first version names a MIG slice by its whole GPU.
    "cuDeviceGetUuid_v2": (ctypes.c_char_p, _int),
    "cuDevicePrimaryCtxRetain": (_to(ctypes.c_void_p), _int),
    "cuCtxPushCurrent_v2": (ctypes.c_void_p,),
    "cuCtxPopCurrent_v2": (_to(ctypes.c_void_p),),
    "cuCtxSynchronize": (),
    "cuMemGetAllocationGranularity": (_to(_size), _to(Form), _int),
    "cuMemCreate": (_to(_word), _size, _to(Form), _word),
    "cuMemRelease": (_word,),
    "cuMemExportToShareableHandle": (_to(_int), _word, _int, _word),
    # Declared as a pointer; a descriptor goes in its place.
    "cuMemImportFromShareableHandle": (_to(_word), ctypes.c_void_p, _int),
    "cuMemAddressReserve": (_to(_word), _size, _size, _word, _word),
    "cuMemAddressFree": (_word, _size),
    "cuMemMap": (_word, _size, _size, _word, _word),
    "cuMemSetAccess": (_word, _size, _to(Access), _size),
    "cuMemUnmap": (_word, _size),
}


@functools.cache
def driver() -> ctypes.CDLL:
    """Returns the driver's library, initialised.

    Raises:
        UsageError: There is none, it is too old, or it finds no device.
    """
    try:
        found = ctypes.CDLL("libcuda.so.1")
        for name, arguments in _CALLS.items():
            call = getattr(found, name)
            call.argtypes, call.restype = arguments, _int
    except OSError as error:
        raise UsageError(
            "the CUDA driver cannot be loaded: {reason}",
            hint="see `nvidia-smi`; in a container, libcuda.so.1 has to be passed in",
            reason=error,
        ) from error
    except AttributeError as error:
        raise UsageError(
            "the CUDA driver cannot share memory: {reason}",
            hint="NVIDIA's driver 470 or later is needed",
            reason=error,
        ) from error
    if status := found.cuInit(0):
        raise UsageError(
            "the CUDA driver does not start: {reason}",
            hint="see `nvidia-smi`",
            reason=_name(found, status),
        )
    return found


def ask(name: str, doing: str, *arguments: object) -> None:
    """Calls ``name`` of the driver.

    Args:
        name: Of the call.
        doing: What it is called for, in words to follow "refused to".
        *arguments: As its declaration says.

    Raises:
        UsageError: As ``driver``.
        ZhcacheError: The driver refused.
    """
    if status := status_of(name, *arguments):
        raise refusal(status, doing)


def status_of(name: str, *arguments: object) -> int:
    """Calls ``name`` of the driver and returns its status, 0 for success.

    Raises:
        UsageError: As ``driver``.
    """
    return int(getattr(driver(), name)(*arguments))


def refusal(status: int, doing: str) -> ZhcacheError:
    """Returns the error that a status is."""
    if status == OUT_OF_MEMORY:
        return NoSpace(
            "the GPU has no memory left to {doing}",
            hint="`zhcache ps` shows what is warm on it, `nvidia-smi` who else uses it",
            doing=doing,
        )
    return ZhcacheError(
        "the CUDA driver refused to {doing}: {reason}",
        hint="`nvidia-smi` and the kernel's log (NVRM, Xid) say more",
        doing=doing,
        reason=_name(driver(), status),
    )


def _name(library: ctypes.CDLL, status: int) -> str:
    name = ctypes.c_char_p()
    library.cuGetErrorName(status, ctypes.byref(name))
    return name.value.decode("ascii", "replace") if name.value else f"CUDA error {status}"
