"""What the service manager is told and hands over: readiness, watchdog, sockets, descriptors.

Source: sd_notify(3), sd_listen_fds(3) and sd_pid_notify_with_fds(3): datagrams, three environment
variables.
"""

from __future__ import annotations

import array
import os
import socket
import stat
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

_FIRST_FD = 3


def notify(
    state: str, environ: MutableMapping[str, str] | None = None, fds: Sequence[int] = ()
) -> bool:
    """Sends ``state`` (such as ``READY=1``) to the service manager; False if there is none.

    Args:
        state: Lines of assignments.
        environ: Where the manager's address is.
        fds: Descriptors to send beside it.
    """
    env = os.environ if environ is None else environ
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect(address)
            channel.sendmsg([state.encode()], rights)
        except OSError:
            # A manager that went away must not take the service with it.
            return False
    return True


def store_fd(name: str, fd: int, environ: MutableMapping[str, str] | None = None) -> bool:
    """Gives ``fd`` into the manager's keeping, for the daemon that it starts next.

    FDPOLL=0: memory is never readable or hung up, and must not be dropped for it.
    """
    return notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", environ, [fd])


def forget_fd(name: str, environ: MutableMapping[str, str] | None = None) -> bool:
    """Has the manager close what it keeps under ``name``."""
    return notify(f"FDSTOREREMOVE=1\nFDNAME={name}", environ)


def watchdog_interval_s(environ: MutableMapping[str, str] | None = None) -> float | None:
    """Returns how often to send ``WATCHDOG=1``, half the manager's limit, or None."""
    env = os.environ if environ is None else environ
    meant_for = env.get("WATCHDOG_PID", "")
    limit_us = env.get("WATCHDOG_USEC", "")
    if not limit_us.isdigit() or (meant_for and meant_for != str(os.getpid())):
        return None
    return int(limit_us) / 2e6


@dataclass(frozen=True, slots=True)
class Inherited:
    """What the manager handed over: sockets it listens on for us, and what it kept, by name."""

    sockets: list[socket.socket] = field(default_factory=list)
    kept: list[tuple[str, int]] = field(default_factory=list)


def inherited(environ: MutableMapping[str, str] | None = None) -> Inherited:
    """Takes what the manager opened and kept for us, in its order.

    The variables are removed, so that no child takes the descriptors for its own.
    """
    env = os.environ if environ is None else environ
    meant_for = env.pop("LISTEN_PID", "")
    count = env.pop("LISTEN_FDS", "")
    names = env.pop("LISTEN_FDNAMES", "").split(":")
    found = Inherited()
    if meant_for != str(os.getpid()) or not count.isdigit():
        return found
    descriptors = range(_FIRST_FD, _FIRST_FD + int(count))
    for descriptor, name in zip_longest(descriptors, names[: int(count)], fillvalue=""):
        os.set_inheritable(int(descriptor), False)
        if stat.S_ISSOCK(os.fstat(int(descriptor)).st_mode):
            found.sockets.append(socket.socket(fileno=int(descriptor)))
        else:
            found.kept.append((name, int(descriptor)))
    return found
