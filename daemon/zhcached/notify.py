"""What the service manager is told and what it hands over: readiness, watchdog, sockets.

Source: sd_notify(3) and sd_listen_fds(3): one datagram, three environment variables.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

_FIRST_FD = 3


def notify(state: str, environ: MutableMapping[str, str] | None = None) -> bool:
    """Sends ``state`` (such as ``READY=1``) to the service manager; False if there is none."""
    env = os.environ if environ is None else environ
    address = env.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect(address)
            channel.sendall(state.encode())
        except OSError:
            # A manager that went away must not take the service with it.
            return False
    return True


def watchdog_interval_s(environ: MutableMapping[str, str] | None = None) -> float | None:
    """Returns how often to send ``WATCHDOG=1``, half the manager's limit, or None."""
    env = os.environ if environ is None else environ
    meant_for = env.get("WATCHDOG_PID", "")
    limit_us = env.get("WATCHDOG_USEC", "")
    if not limit_us.isdigit() or (meant_for and meant_for != str(os.getpid())):
        return None
    return int(limit_us) / 2e6


def inherited_sockets(environ: MutableMapping[str, str] | None = None) -> list[socket.socket]:
    """Takes the listening sockets the manager opened for us, in its order.

    The variables are removed, so that no child takes them for its own.
    """
    env = os.environ if environ is None else environ
    meant_for = env.pop("LISTEN_PID", "")
    count = env.pop("LISTEN_FDS", "")
    env.pop("LISTEN_FDNAMES", None)
    if meant_for != str(os.getpid()) or not count.isdigit():
        return []
    sockets: list[socket.socket] = []
    for descriptor in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets
