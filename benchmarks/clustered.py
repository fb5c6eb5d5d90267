"""The ways that models are held on a cluster, with stand-ins that sleep: for counting loads."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec
import ray
from PIL import Image
from ray import serve
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zhcache.cluster.deploy import deployment
from zhcache.cluster.node import Node
from zhcache.cluster.order import Turns
from zhcache.cluster.replica import Replica
from zhcache.cluster.task import Model, Task
from zhcache.resident.result import Result

_NAMESPACE = "bench"
CALL_S, LOAD_S, EACH_S = 0.1, 1.0, 0.02
OURS = "homes, warm list, order by model"
UNORDERED = "homes, warm list, first come first served"
SERVE = "Serve's multiplexing (least recently used)"
WAYS = (SERVE, UNORDERED, OURS)


class StandIn:
    """A node's daemon: room for some models, and one device for what is loaded and called."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._warm: OrderedDict[str, None] = OrderedDict()
        self._device = asyncio.Lock()
        self.loads = 0

    async def call(self, model: str) -> None:
        """Sleeps as a call does, and before it as a load, where that is needed."""
        async with self._device:
            if model not in self._warm:
                self.loads += 1
                await asyncio.sleep(LOAD_S)
            self._warm[model] = None
            self._warm.move_to_end(model)
            while len(self._warm) > self._slots:
                self._warm.popitem(last=False)
            await asyncio.sleep(CALL_S)

    async def warm(self) -> list[str]:
        """Returns what is warm."""
        return list(self._warm)

    async def loaded(self) -> int:
        """Returns how often a model was loaded."""
        return self.loads


def here(run: str) -> Any:
    """Returns the stand-in of this node."""
    name = f"{run}-{ray.get_runtime_context().get_node_id()}"
    return ray.get_actor(name, namespace=_NAMESPACE)


class Pipe:
    """Called as a resident pipeline is."""

    commit = "c" * 40

    def __init__(self, daemon: Any, model: str) -> None:
        self._daemon, self._model = daemon, model

    def __call__(self, **_: Any) -> Result:
        ray.get(self._daemon.call.remote(self._model))
        return Result("Out", {"images": [Image.new("RGB", (1, 1))]})

    def release(self) -> None:
        """Nothing is held."""


class OurReplica(Replica):
    """A replica as it is, over a stand-in."""

    def __init__(self, run: str, age_s: float) -> None:
        daemon = here(run)
        self._node = Node(
            turns=Turns(age_s=age_s),
            open_pipeline=lambda model, _: Pipe(daemon, model.key),
            warm=lambda: frozenset(ray.get(daemon.warm.remote())),
        )


class ServeReplica:
    """Serve's way: a list of models of its own, as long as there is room for on the node."""

    model: Any = None

    def __init__(self, run: str) -> None:
        self._daemon = here(run)

    async def make(self, model: str) -> None:
        """Makes a call."""
        await self.model(model)
        await self._daemon.call.remote(model)


class Bench:
    """A cluster that is there, and a run of calls on it in one of the ways."""

    def __init__(self, address: str) -> None:
        if not ray.is_initialized():
            ray.init(address, log_to_driver=False)
        self._runs = 0

    def run(
        self, way: str, slots: int, models: Sequence[str], asked: Sequence[str]
    ) -> tuple[int, float]:
        """Returns how often models were loaded, and the seconds until all calls were through."""
        self._runs += 1
        run = f"bench-{self._runs}"
        nodes = [one["NodeID"] for one in ray.nodes() if one["Alive"]]
        daemons = [
            ray.remote(num_cpus=0)(StandIn)
            .options(
                name=f"{run}-{node}",
                namespace=_NAMESPACE,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                max_concurrency=100,
            )
            .remote(slots)
            for node in nodes
        ]
        ray.get([daemon.warm.remote() for daemon in daemons])
        handle = serve.run(_app(way, run, models, slots), name=run, route_prefix=None)
        began = time.monotonic()
        answers = []
        for number, model in enumerate(asked):
            time.sleep(max(began + number * EACH_S - time.monotonic(), 0.0))
            answers.append(_asked(way, handle, model))
        for answer in answers:
            said = answer.result()
            assert not said or "error" not in said, said
        seconds = time.monotonic() - began
        loads = sum(ray.get([daemon.loaded.remote() for daemon in daemons]))
        serve.delete(run)
        for daemon in daemons:
            ray.kill(daemon)
        return loads, seconds


def _app(way: str, run: str, models: Sequence[str], slots: int) -> Any:
    if way == SERVE:
        served = type("Served", (ServeReplica,), {"model": _multiplexed(slots)})
        return serve.deployment(
            served,
            num_replicas=2,
            max_replicas_per_node=1,
            ray_actor_options={"num_cpus": 0},
        ).bind(run)
    options = deployment(models, 2, 2, 100, 1000, 30.0)
    age_s = 10.0 if way == OURS else 0.0
    return serve.deployment(OurReplica, name="node", **options).bind(run, age_s)


def _multiplexed(slots: int) -> Any:
    @serve.multiplexed(max_num_models_per_replica=slots)
    async def model(self: ServeReplica, model: str) -> str:
        return model

    return model


def _asked(way: str, handle: Any, model: str) -> Any:
    if way == SERVE:
        return handle.options(multiplexed_model_id=model).make.remote(model)
    task = Task(model=Model(repo=model), prompt="x", seed=0)
    return handle.make.remote(model=model, task=msgspec.to_builtins(task))
