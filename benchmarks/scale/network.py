"""Machines on one network, made of network namespaces: a switch, an origin far away, nodes.

Each is a namespace of its own with one interface whose rate is limited both ways, so what one of
them sends and receives can be read off its interface. Needs root and iproute2, and reaches nobody.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

ORIGIN = "origin"
_SUBNET = "10.203.7"
_SWITCH = "switch"
# A segment that the kernel hands on in one piece must fit, or the bucket lets nothing pass.
_BURST_BYTES = 256 * 2**10
_QUEUE_MS = 200


class Traffic(NamedTuple):
    """Bytes at one interface, headers and what was sent twice included."""

    sent: int
    received: int


class Network:
    """The namespaces of an origin and ``nodes`` nodes, there while the ``with`` block lasts.

    Args:
        nodes: How many; they are called ``node-1`` and so on.
        uplink: Bytes per second of the origin's line, each way.
        link: Bytes per second of a node's line, each way.

    Raises:
        RuntimeError: A command failed, or this process may not make namespaces.
    """

    def __init__(self, nodes: int, *, uplink: float, link: float) -> None:
        self.nodes = [f"node-{number}" for number in range(1, nodes + 1)]
        self._rates = {ORIGIN: uplink} | dict.fromkeys(self.nodes, link)
        # Several runs on one machine must not meet, and whoever finds one left knows whose it is.
        self._prefix = f"zhs{os.getpid()}-"
        self._addresses = {
            name: f"{_SUBNET}.{number}" for number, name in enumerate(self._rates, start=1)
        }
        self._made: list[str] = []

    def __enter__(self) -> Self:
        if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc"))):
            raise RuntimeError("network namespaces need root, and ip and tc of iproute2")
        try:
            self._make(_SWITCH)
            self._inside(_SWITCH, "ip link add lan type bridge", "ip link set lan up")
            for port, (name, rate) in enumerate(self._rates.items(), start=1):
                self._make(name)
                self._connect(name, port, rate)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    @property
    def subnet(self) -> str:
        """All their addresses."""
        return f"{_SUBNET}.0/24"

    def address(self, name: str) -> str:
        """Returns the address of the origin or of a node."""
        return self._addresses[name]

    def before(self, name: str) -> Sequence[str]:
        """Returns what to put before a command so that it runs on that machine."""
        return ("ip", "netns", "exec", self._prefix + name)

    def traffic(self, name: str) -> Traffic:
        """Returns what went through the machine's interface so far."""
        told = _run("ip", "-n", self._prefix + name, "-s", "-j", "link", "show", "eth0")
        (link,) = json.loads(told)
        return Traffic(link["stats64"]["tx"]["bytes"], link["stats64"]["rx"]["bytes"])

    def _make(self, name: str) -> None:
        _run("ip", "netns", "add", self._prefix + name)
        self._made.append(self._prefix + name)
        self._inside(name, "ip link set lo up")

    def _connect(self, name: str, port: int, rate: float) -> None:
        there, here = self._prefix + name, self._prefix + _SWITCH
        _run(
            *f"ip -n {here} link add port{port} type veth peer name eth0 netns {there}".split(),
        )
        shaped = f"tbf rate {int(rate * 8)}bit burst {_BURST_BYTES} latency {_QUEUE_MS}ms"
        self._inside(
            _SWITCH,
            f"ip link set port{port} master lan up",
            f"tc qdisc add dev port{port} root {shaped}",
        )
        self._inside(
            name,
            f"ip address add {self._addresses[name]}/24 dev eth0",
            "ip link set eth0 up",
            f"tc qdisc add dev eth0 root {shaped}",
        )

    def _inside(self, name: str, *commands: str) -> None:
        for command in commands:
            _run(*self.before(name), *command.split())

    def _remove(self) -> None:
        # The links go with the namespaces that they end in.
        while self._made:
            with suppress(RuntimeError):
                _run("ip", "netns", "delete", self._made.pop())


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
