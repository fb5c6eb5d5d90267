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
from collections.abc import Sequence

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _THIRD_ARGUMENT = 0, 4, 16, 32
_NEXT, _TO_ALLOW, _TO_REFUSE = "next", "allow", "refuse"
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


_Step = tuple[int, int, str, str]
"""Operation, value, where it goes if the comparison holds, and where if not."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def is_known() -> bool:
    """Tells whether there is a filter for this machine's architecture and kernel."""
    # The kernel names what a filter may answer there since 4.14; before that there is no such file.
    listed = "/proc/sys/kernel/seccomp/actions_avail"
    return platform.machine() in _ARCHITECTURES and os.access(listed, os.R_OK)


def refuse(*, may_connect: bool, may_meet: bool = False, more: Sequence[int] = ()) -> None:
    """Puts the filter on this thread and all that come from it.

    Args:
        may_connect: Whether Unix sockets may be connected to, as CUDA MPS needs it.
        may_meet: Whether there may be sockets of IPv4, and the kernel's table of interfaces be
            read, as ranks need it that meet over a loopback of their own. Unix sockets may then
            not be made, so that to connect means nobody outside.
        more: Families of addresses that it may use besides; with ``may_meet``.

    Raises:
        OSError: The kernel does not take it; ``no_new_privs`` must be set.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter of system calls is known for {machine}")
    code = _assembled(machine, may_connect=may_connect, may_meet=may_meet, more=more)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _assembled(
    machine: str, *, may_connect: bool, may_meet: bool, more: Sequence[int] = ()
) -> bytes:
    numbers = sorted(_REFUSED[machine].values())
    if not (may_connect or may_meet):
        numbers.append(_CONNECT[machine])
    families = [*more, socket.AF_INET] if may_meet else [socket.AF_UNIX]
    if may_connect and may_meet:
        families.append(socket.AF_UNIX)
    steps: list[_Step] = [
        (_LOAD, _ARCHITECTURE, _NEXT, _NEXT),
        (_EQUAL, _ARCHITECTURES[machine], _NEXT, _TO_REFUSE),
        (_LOAD, _NUMBER, _NEXT, _NEXT),
        (_AT_LEAST, _X32, _TO_REFUSE, _NEXT),
        *((_EQUAL, number, _TO_REFUSE, _NEXT) for number in numbers),
        (_EQUAL, _SOCKET[machine], _NEXT, _TO_ALLOW),
        (_LOAD, _FIRST_ARGUMENT, _NEXT, _NEXT),
        *((_EQUAL, family, _TO_ALLOW, _NEXT) for family in families),
    ]
    if may_meet:
        # getifaddrs(3), which asks by it; gloo looks for the loopback's name.
        steps += [
            (_EQUAL, socket.AF_NETLINK, _NEXT, _TO_REFUSE),
            (_LOAD, _THIRD_ARGUMENT, _NEXT, _NEXT),
            (_EQUAL, socket.NETLINK_ROUTE, _TO_ALLOW, _NEXT),
        ]
    # What has gone through all of them is refused, hence this order.
    ends = [_one(_RETURN, _REFUSE), _one(_RETURN, _ALLOW)]
    places = {_TO_REFUSE: len(steps), _TO_ALLOW: len(steps) + 1}
    return b"".join(
        [
            _one(operation, value, *(places.get(way, place) - place for way in (if_so, if_not)))
            # Jumps count from the next instruction.
            for place, (operation, value, if_so, if_not) in enumerate(steps, start=1)
        ]
        + ends
    )


def _one(operation: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, if_so, if_not, value)
