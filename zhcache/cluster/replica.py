# pyright: reportMissingImports=false
"""A replica: one node's queue, inside an actor of Serve's. It holds no weights.

The daemon is the one that the node's environment names (``ZHCACHE_SOCKET``), or the machine's usual
one. Its pipelines outlive the replica, the driver and Ray itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from zhcache.cluster.node import Node, settled
from zhcache.cluster.order import Turns
from zhcache.cluster.task import Model, Task
from zhcache.errors import (
    Busy,
    DaemonUnreachable,
    NoSpace,
    NotPermitted,
    VersionMismatch,
    WorkerDied,
    ZhcacheError,
    from_wire,
)
from zhcache.i18n import mark
from zhcache.protocol.failure import to_info

Answer = dict[str, Any]
"""``{"error": ...}`` as ``protocol.failure`` writes it, or what was asked for. Errors of zhcache's
are values here: one that is raised would come back in a wrapper of Ray's."""

_LEFT_S = 5.0
"""Ten times what Serve takes to ask how a replica is, while it has use for it."""

_LOOK_S = 1.0

_OF_PLACE = (DaemonUnreachable, NoSpace, NotPermitted, VersionMismatch, WorkerDied)
"""Errors that one node has and others need not: which it is, has to be told."""


class Replica:
    """What Serve calls. One for each node.

    Args:
        devices: Of the machine, as ``Node`` takes them.
        age_s: As ``order.Turns`` takes it.
    """

    _told = 0
    _asked = math.inf

    def __init__(self, devices: Sequence[str], age_s: float) -> None:
        self._node = Node(devices, name=_name(), turns=Turns(age_s=age_s))

    async def make(self, model: str, task: dict[str, Any]) -> Answer:
        """Makes one image: ``{"picture": ...}``. ``model`` is for the router alone."""
        call = self._node.submit(msgspec.convert(task, Task))
        answer = asyncio.wrap_future(call)
        try:
            while not (await asyncio.wait([answer], timeout=_LOOK_S))[0]:
                if self._is_leaving() and call.cancel():
                    return self._refusal(
                        Busy("node {node} leaves the cluster", node=self._node.name)
                    )
            picture = await answer
        except ZhcacheError as error:
            return self._refusal(error)
        finally:
            # Where Serve ends the wait for it, it is not begun any more.
            answer.cancel()
        return {"picture": msgspec.structs.asdict(picture)}

    async def settle(self, model: str, wanted: dict[str, Any]) -> Answer:
        """Says what a model's revision means: ``{"commit": ...}``; fetches what is not there."""
        asked = msgspec.convert(wanted, Model)
        try:
            return {"commit": await asyncio.to_thread(settled, asked)}
        except ZhcacheError as error:
            return self._refusal(error)

    async def devices(self, model: str) -> Answer:
        """Says which devices it uses: ``{"devices": ...}``."""
        return {"devices": [lane.device for lane in self._node.lanes]}

    async def tell(self) -> Answer:
        """Says how the node is: ``{"node": ..., "warm": ..., "waiting": ..., "failure": ...}``."""
        await asyncio.to_thread(self._node.look)
        status = self._node.status()
        return {
            "node": self._node.name,
            "warm": sorted(status.warm),
            "waiting": status.waiting,
            "failure": self._refusal(status.failure)["error"] if status.failure else None,
        }

    async def record_routing_stats(self) -> dict[str, Any]:
        """Tells the routers how the node is; Serve asks for it and passes it on."""
        self._asked = math.inf
        await asyncio.to_thread(self._node.look)
        self._asked = time.monotonic()
        status = self._node.status()
        self._told += 1
        return {
            "warm": sorted(status.warm),
            "queue_s": status.queue_s,
            "call_s": status.call_s,
            "load_s": status.load_s,
            "waiting": status.waiting,
            "is_up": status.is_up,
            "told": self._told,
        }

    def _is_leaving(self) -> bool:
        """Whether Serve has let go of this replica: it says so to nobody, but asks nothing more.

        What runs it waits for; what waits behind that would wait in vain once Serve's time is up.
        """
        return time.monotonic() - self._asked > _LEFT_S

    def _refusal(self, error: ZhcacheError) -> Answer:
        if isinstance(error, _OF_PLACE):
            error = from_wire(
                error.code,
                mark("node {node}: {reason}"),
                error.hint_template,
                {**error.values, "node": self._node.name, "reason": error.message},
            )
        return {"error": msgspec.to_builtins(to_info(error))}

    def __del__(self) -> None:
        # Serve calls it when a replica is to end. Before __init__ was through there is no node.
        with contextlib.suppress(AttributeError):
            self._node.close()


def _name() -> str:
    """Returns the machine's name and how Ray calls the node: one machine may have several."""
    import ray

    return f"{os.uname().nodename}/{ray.get_runtime_context().get_node_id()[:8]}"
