"""What memory that travels as a descriptor must do, checked in a process of its own.

``python -m harness.vmm_checks NAME``: the same checks for the stand-in and for a GPU's driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

from zhcache.errors import NoSpace, UsageError, ZhcacheError
from zhcache.pipeline import libcuda, vmm

SIZE = 3 << 20
TEXT = b"weights" * 1000


@contextlib.contextmanager
def raises(kind: type[ZhcacheError], *words: str) -> Iterator[None]:
    """Demands an error of just this class whose text has all of ``words``."""
    try:
        yield
    except ZhcacheError as error:
        assert type(error) is kind, repr(error)
        assert all(word in str(error) for word in words), str(error)
    else:
        raise AssertionError(f"no {kind.__name__}")


def write(mapping: vmm.Mapping, text: bytes, at: int = 0) -> None:
    """Copies host memory there, as the driver does it."""
    copy = libcuda.driver().cuMemcpyHtoD_v2
    copy.argtypes = (ctypes.c_uint64, ctypes.c_char_p, ctypes.c_size_t)
    with vmm._context(mapping.ordinal):
        if status := copy(mapping.pointer + at, text, len(text)):
            raise libcuda.refusal(status, "write")


def read(mapping: vmm.Mapping, size: int, at: int = 0) -> bytes:
    """Copies from there to host memory."""
    into = ctypes.create_string_buffer(size)
    copy = libcuda.driver().cuMemcpyDtoH_v2
    copy.argtypes = (ctypes.c_char_p, ctypes.c_uint64, ctypes.c_size_t)
    with vmm._context(mapping.ordinal):
        if status := copy(into, mapping.pointer + at, size):
            raise libcuda.refusal(status, "read")
    return into.raw


def is_mapped(pointer: int) -> bool:
    """Tells whether the driver knows memory at this address."""
    ask = libcuda.driver().cuMemGetAddressRange_v2
    ask.argtypes = (
        ctypes.POINTER(ctypes.c_uint64),
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.c_uint64,
    )
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    with vmm._context(0):
        return ask(ctypes.byref(base), ctypes.byref(size), pointer) == 0


def exported(text: bytes = TEXT) -> tuple[int, int]:
    """Returns a descriptor of memory that holds ``text``, and its size; nothing else holds it."""
    made = vmm.Allocation.create(SIZE, 0)
    mapping = made.map(writable=True)
    write(mapping, text)
    fd = made.export()
    mapping.close()
    made.close()
    return fd, made.size_bytes


def received(fd: int, size: int, *, writable: bool = False) -> vmm.Mapping:
    """Maps what a descriptor stands for."""
    allocation = vmm.Allocation.receive(fd, size, 0)
    try:
        return allocation.map(writable=writable)
    finally:
        allocation.close()


def counts() -> list[int]:
    """Returns the stand-in's handles, mappings, reservations, and whether it synchronised."""
    told = (ctypes.c_int * 4)()
    ctypes.CDLL("libcuda.so.1").stand_in_counts(told)
    return list(told)


# --- for every driver ---------------------------------------------------------------------------


def descriptor_keeps_content() -> None:
    fd, size = exported()
    assert size >= SIZE
    assert not os.get_inheritable(fd)
    mapping = received(fd, size)
    os.close(fd)
    assert read(mapping, len(TEXT)) == TEXT


def readers_cannot_copy_into_it() -> None:
    fd, size = exported()
    mapping = received(fd, size)
    with raises(ZhcacheError, "INVALID_VALUE"):
        write(mapping, b"x")
    assert read(mapping, len(TEXT)) == TEXT


def descriptor_is_no_boundary() -> None:
    # Not what we would like: what is. The checksum at attach rests on it.
    fd, size = exported()
    reader = received(fd, size)
    intruder = received(fd, size, writable=True)
    write(intruder, b"CHANGED")
    assert read(reader, 7) == b"CHANGED"


def memory_outlives_its_maker() -> None:
    ours, theirs = socket.socketpair()
    maker = subprocess.Popen(
        [sys.executable, "-m", "harness.vmm_checks", "_make", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    told, fds, _, _ = socket.recv_fds(ours, 64, 1)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    # From here to the import no process with CUDA exists that knows of it.
    first = received(fds[0], int(told))
    second = received(fds[0], int(told))
    os.close(fds[0])
    assert read(first, len(TEXT)) == TEXT == read(second, len(TEXT))


def _make(fd: str) -> None:
    line = socket.socket(fileno=int(fd))
    memory, size = exported()
    socket.send_fds(line, [str(size).encode()], [memory])
    signal.pause()


def other_descriptors_are_refused() -> None:
    with open(os.devnull, "rb") as other, raises(ZhcacheError, "refused to take up"):
        received(other.fileno(), 2 << 20)


def too_much_is_no_space() -> None:
    with raises(NoSpace, "no memory left", "MiB"):
        vmm.Allocation.create(1 << 50, 0)


def full_device_is_no_space() -> None:
    # A context takes memory as well, and so do page tables.
    with raises(NoSpace, "no memory left"):
        exported()


def unknown_device_is_told() -> None:
    with raises(UsageError, "does not see", vmm.uuid_of(0)):
        vmm.ordinal_of("GPU-00000000-0000-0000-0000-000000000000")


def devices_are_named() -> None:
    for ordinal in range(vmm.count()):
        name = vmm.uuid_of(ordinal)
        assert vmm.ordinal_of(name) == ordinal
        assert vmm.ordinal_of(name.upper().replace("GPU", "MIG")) == ordinal
    with raises(ZhcacheError, "INVALID_DEVICE"):
        vmm.uuid_of(vmm.count())


def last_reference_unmaps() -> None:
    fd, size = exported()
    mapping = received(fd, size)
    pointer = mapping.pointer
    assert is_mapped(pointer)
    del mapping
    gc.collect()
    assert not is_mapped(pointer)


# --- for the stand-in, which counts -------------------------------------------------------------


def nothing_is_left() -> None:
    fd, size = exported()
    assert counts()[:3] == [0, 0, 0]
    mapping = received(fd, size)
    assert counts()[:3] == [0, 1, 1]
    mapping.close()
    mapping.close()
    *left, synchronised = counts()
    assert left == [0, 0, 0]
    # A kernel that was queued may still read there.
    assert synchronised


def child_leaves_it_mapped() -> None:
    fd, size = exported()
    mapping = received(fd, size)
    child = os.fork()
    if child == 0:
        mapping.close()
        os._exit(0 if counts()[:3] == [0, 1, 1] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert read(mapping, len(TEXT)) == TEXT


def failed_step_leaves_nothing() -> None:
    # STAND_IN_FAIL names the step; whatever it is, what went before is undone.
    with contextlib.suppress(ZhcacheError):
        fd, size = exported()
        received(fd, size)
        raise AssertionError("nothing failed")
    gc.collect()
    assert counts()[:3] == [0, 0, 0]


def failed_wait_leaves_it_mapped() -> None:
    made = vmm.Allocation.create(SIZE, 0)
    mapping = made.map(writable=True)
    made.close()
    mapping.close()
    assert counts()[:3] == [0, 1, 1]


def order_is_the_environments() -> None:
    first = vmm.uuid_of(0)
    assert first.endswith("1"), first
    assert vmm.count() == 1
    with raises(UsageError, "CUDA_VISIBLE_DEVICES"):
        vmm.ordinal_of(first[:-1] + "0")


def driver_does_not_start() -> None:
    with raises(UsageError, "does not start"):
        vmm.count()


def driver_is_missing() -> None:
    with raises(UsageError, "cannot be loaded", "libcuda.so.1"):
        vmm.count()


SHARED = (
    descriptor_keeps_content,
    readers_cannot_copy_into_it,
    descriptor_is_no_boundary,
    memory_outlives_its_maker,
    other_descriptors_are_refused,
    too_much_is_no_space,
    unknown_device_is_told,
    devices_are_named,
    last_reference_unmaps,
)
"""What a GPU's driver is asked as well."""


def main(name: str, *arguments: str) -> None:
    """Runs one check."""
    check: Callable[..., None] = globals()[name]
    check(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
