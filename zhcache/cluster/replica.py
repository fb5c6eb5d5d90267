# pyright: reportMissingImports=false
"""A replica: one node's queue, inside an actor of Serve's. It holds no weights.

The daemon is the one that the node's environment names (``ZHCACHE_SOCKET``), or the machine's usual
one. Its pipelines outlive the replica, the driver and Ray itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Any

import msgspec

from zhcache.cluster.node import Node, settled
from zhcache.cluster.order import Turns
from zhcache.cluster.task import Model, Task
from zhcache.errors import ZhcacheError
from zhcache.protocol.failure import to_info

Answer = dict[str, Any]
"""``{"error": ...}`` as ``protocol.failure`` writes it, or what was asked for. Errors of zhcache's
are values here: one that is raised would come back in a wrapper of Ray's."""


class Replica:
    """What Serve calls. One for each node.

    Args:
        devices: Of the machine, as ``Node`` takes them.
        age_s: As ``order.Turns`` takes it.
    """

    def __init__(self, devices: Sequence[str], age_s: float) -> None:
        self._node = Node(devices, name=_name(), turns=Turns(age_s=age_s))
        self._told = 0

    async def make(self, model: str, task: dict[str, Any]) -> Answer:
        """Makes one image: ``{"picture": ...}``. ``model`` is for the router alone."""
        asked = msgspec.convert(task, Task)
        try:
            picture = await asyncio.wrap_future(self._node.submit(asked))
        except ZhcacheError as error:
            return _refusal(error)
        return {"picture": msgspec.structs.asdict(picture)}

    async def settle(self, model: str, wanted: dict[str, Any]) -> Answer:
        """Says what a model's revision means: ``{"commit": ...}``; fetches what is not there."""
        asked = msgspec.convert(wanted, Model)
        try:
            return {"commit": await asyncio.to_thread(settled, asked)}
        except ZhcacheError as error:
            return _refusal(error)

    async def devices(self, model: str) -> Answer:
        """Says which devices it uses: ``{"devices": ...}``."""
        return {"devices": [lane.device for lane in self._node.lanes]}

    async def record_routing_stats(self) -> dict[str, Any]:
        """Tells the routers how the node is; Serve asks for it and passes it on."""
        await asyncio.to_thread(self._node.look)
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

    def __del__(self) -> None:
        # Serve calls it when a replica is to end. Before __init__ was through there is no node.
        with contextlib.suppress(AttributeError):
            self._node.close()


def _name() -> str:
    """Returns the machine's name and how Ray calls the node: one machine may have several."""
    import ray

    return f"{os.uname().nodename}/{ray.get_runtime_context().get_node_id()[:8]}"


def _refusal(error: ZhcacheError) -> Answer:
    return {"error": msgspec.to_builtins(to_info(error))}
