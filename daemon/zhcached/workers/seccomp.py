"""System calls that a worker is refused: every way to a network, and to other processes' memory.

A filter of the kernel, for good: it holds for every thread and child of the process that puts it
on. Landlock alone would leave UDP open, and is missing from older kernels.

Source: seccomp(2); linux/filter.h; the numbers are those of asm/unistd_64.h and asm-generic.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
# x32 has numbers of its own for all of these, beside those of x86-64 and on the same kernel entry.
_X32 = 0x40000000

_REFUSED = {
    "x86_64": {
        "ptrace": 101,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "pidfd_getfd": 438,
        "io_uring_setup": 425,
        "bpf": 321,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "mount": 165,
        "unshare": 272,
        "setns": 308,
    },
    "aarch64": {
        "ptrace": 117,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "pidfd_getfd": 438,
        "io_uring_setup": 425,
        "bpf": 280,
        "perf_event_open": 241,
        "userfaultfd": 282,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "mount": 40,
        "unshare": 97,
        "setns": 268,
    },
}
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_CONNECT = {"x86_64": 42, "aarch64": 203}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def is_known() -> bool:
    """Tells whether there is a filter for this machine's architecture and kernel."""
    # The kernel names what a filter may answer there since 4.14; before that there is no such file.
    listed = "/proc/sys/kernel/seccomp/actions_avail"
    return platform.machine() in _ARCHITECTURES and os.access(listed, os.R_OK)


def refuse(*, may_connect: bool) -> None:
    """Puts the filter on this thread and all that come from it.

    Args:
        may_connect: Whether Unix sockets may be connected to, as CUDA MPS needs it.

    Raises:
        OSError: The kernel does not take it; ``no_new_privs`` must be set.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter of system calls is known for {machine}")
    code = _assembled(machine, may_connect=may_connect)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _assembled(machine: str, *, may_connect: bool) -> bytes:
    numbers = sorted(_REFUSED[machine].values())
    if not may_connect:
        numbers.append(_CONNECT[machine])
    # Jumps count from the next instruction; the last two are "allow" and "refuse". What follows a
    # check is as long as the checks that are left, the three of socket() and the load before it.
    body: list[tuple[int, int, bool | None]] = [(_LOAD, _NUMBER, None), (_AT_LEAST, _X32, True)]
    body += [(_EQUAL, number, True) for number in numbers]
    length = 2 + len(body) + 3
    code = [_one(_LOAD, _ARCHITECTURE)]
    code.append(_one(_EQUAL, _ARCHITECTURES[machine], 0, length - 1))
    for place, (operation, value, refuses) in enumerate(body, start=2):
        to_refusal = length - place if refuses else 0
        code.append(_one(operation, value, to_refusal, 0))
    code.append(_one(_EQUAL, _SOCKET[machine], 0, 2))
    code.append(_one(_LOAD, _FIRST_ARGUMENT))
    code.append(_one(_EQUAL, socket.AF_UNIX, 0, 1))
    code += [_one(_RETURN, _ALLOW), _one(_RETURN, _REFUSE)]
    return b"".join(code)


def _one(operation: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, if_so, if_not, value)
