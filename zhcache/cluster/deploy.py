# pyright: reportMissingImports=false
"""``zhcache.cluster.serve``: a thin replica on each node of a Ray cluster; and who calls them.

Ray is imported in functions alone.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from zhcache import __version__
from zhcache.cluster.joining import ray_of
from zhcache.cluster.retry import meant
from zhcache.cluster.task import Model, Picture, Task, key_of
from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol.failure import to_error
from zhcache.protocol.messages import ErrorInfo

NAME = "zhcache"
_SERVING = ("RUNNING", "DEPLOYING")
_STATS_S = 0.5
"""How often replicas tell how they are."""

_WIDEST = 256
"""Calls of one batch under way: each has a thread."""


class Served:
    """A cluster's replicas, as a batch or a script calls them. Thread-safe.

    Attributes:
        name: Of the application in Serve.
        width: Calls that are worth having under way at a time.
    """

    def __init__(self, name: str, handle: Any, width: int) -> None:
        self.name = name
        self.width = width
        self._handle = handle
        self._under_way: set[Any] = set()
        self._lock = threading.Lock()

    def settle(self, model: Model) -> str:
        """As ``Crew`` says."""
        return self._ask(self._handle.settle, model.key, wanted=msgspec.to_builtins(model))[
            "commit"
        ]

    def make(self, task: Task) -> Picture:
        """As ``Crew`` says.

        Raises:
            DaemonUnreachable: The node or replica was lost.
            Busy: The queues are full.
            ZhcacheError: What the call ended with.
        """
        answer = self._ask(self._handle.make, task.model.key, task=msgspec.to_builtins(task))
        return Picture(**answer["picture"])

    def devices(self) -> list[str]:
        """Returns the devices that the replicas use."""
        return self._ask(self._handle.devices, "")["devices"]

    def close(self) -> None:
        """Ends the calls that are under way. The replicas stay."""
        with self._lock:
            left = list(self._under_way)
        for response in left:
            response.cancel()

    def stop(self) -> None:
        """Ends the replicas. What is warm stays so in the nodes' daemons."""
        from ray import serve

        serve.delete(self.name)

    def _ask(self, method: Any, model: str, **words: Any) -> dict[str, Any]:
        response = None
        try:
            response = method.remote(model=model, **words)
            with self._lock:
                self._under_way.add(response)
            answer = response.result()
        except Exception as error:
            raise meant(error) from error
        finally:
            with self._lock:
                self._under_way.discard(response)
        if "error" in answer:
            raise to_error(msgspec.convert(answer["error"], ErrorInfo))
        return answer


def serve(
    repos: str | Sequence[str],
    *,
    address: str = "auto",
    variant: str | None = None,
    nodes: int | tuple[int, int] | None = None,
    device: str | Sequence[str] = "auto",
    depth: int = 32,
    queue: int = 1000,
    spill_s: float = 30.0,
    age_s: float = 30.0,
    labels: Mapping[str, str] | None = None,
    is_open: bool = False,
) -> Served:
    """Puts a replica onto each node and returns what calls them; what is served already stays.

    A replica attaches to its node's zhcached, and needs no processor and no GPU of Ray's. Nothing
    listens for it: calls go by handles.

    Args:
        repos: Models that are dealt evenly to the nodes. Others may be called as well.
        address: Of the cluster, as ``ray.init`` takes it.
        variant: Of those models.
        nodes: How many; two numbers let Serve choose between them by load. None is all there are
            now, with these labels.
        device: Of each node: as ``load_pipeline`` takes it, or several.
        depth: Calls that a node takes at a time; those beyond wait outside.
        queue: Calls of one script that wait outside; more are refused as ``Busy``, which a batch
            waits for.
        spill_s: How much earlier a call must begin elsewhere to leave its model's home.
        age_s: A call that waits so long ends the turn of other models, once that lasted as long.
        labels: Nodes of Ray that have these labels, as its ``label_selector`` takes them.
        is_open: Whether a cluster that lets in anybody (no token) will do.

    Raises:
        UsageError: Ray is not installed.
        DaemonUnreachable: No cluster answers.
        NotPermitted: It has no token authentication, or refused this token.
        ZhcacheError: What else the cluster reported.
    """
    models = sorted(
        {key_of(repo, variant) for repo in ([repos] if isinstance(repos, str) else repos)}
    )
    devices = [device] if isinstance(device, str) else list(device)
    ray = ray_of(address, is_open=is_open)
    least, most = _bounds(ray, nodes, labels or {})
    options = deployment(models, least, most, depth, queue, spill_s)
    if labels:
        options["ray_actor_options"]["label_selector"] = dict(labels)
    return _deployed(options, devices, age_s, most * depth)


def deployment(
    models: Sequence[str], least: int, most: int, depth: int, queue: int, spill_s: float
) -> dict[str, Any]:
    """Returns what Serve is told of the replicas, as ``serve`` takes it; ``models`` are keys."""
    options: dict[str, Any] = {
        "max_ongoing_requests": depth,
        "max_queued_requests": queue,
        "max_replicas_per_node": 1,
        "ray_actor_options": {"num_cpus": 0},
        "request_router_config": {
            "request_router_class": "zhcache.cluster.router:WarmRouter",
            "request_router_kwargs": {"models": list(models), "spill_s": spill_s},
            "request_routing_stats_period_s": _STATS_S,
        },
    }
    if least == most:
        return {**options, "num_replicas": least}
    scaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": max(depth / 4, 1),
    }
    return {**options, "autoscaling_config": scaling}


def join(address: str, models: Sequence[str], devices: Sequence[str], *, is_open: bool) -> Served:
    """Returns what is served at a cluster, or serves ``models`` there if nothing is yet.

    Raises:
        ZhcacheError: As ``serve``.
    """
    ray_of(address, is_open=is_open)
    from ray import serve as ray_serve

    try:
        told = ray_serve.status().applications
        there = [name for name, app in told.items() if _is_ours(name) and app.status in _SERVING]
        served = [Served(n, ray_serve.get_app_handle(n), _WIDEST) for n in there[:1]]
    except Exception as error:
        raise meant(error) from error
    if served:
        _check_devices(served[0], list(devices))
        return served[0]
    return serve([key.partition("@")[0] for key in models], address=address, device=devices,
                 is_open=is_open, variant=models[0].partition("@")[2] or None)  # fmt: skip


def _is_ours(app: str) -> bool:
    return app.startswith(f"{NAME}-")


def _check_devices(served: Served, wanted: list[str]) -> None:
    """Refuses devices that what is served there does not use: replicas are everybody's."""
    if wanted != ["auto"] and (used := served.devices()) != wanted:
        raise UsageError(
            "the cluster is served with device={used}, not {wanted}",
            hint="leave device out, or call zhcache.cluster.serve with it first",
            used=used,
            wanted=wanted,
        )


def _bounds(
    ray: Any, nodes: int | tuple[int, int] | None, labels: Mapping[str, str]
) -> tuple[int, int]:
    if nodes is None:
        # More replicas than nodes for them would be waited for without end.
        alive = [one for one in ray.nodes() if one["Alive"]]
        nodes = sum(labels.items() <= one["Labels"].items() for one in alive)
    least, most = (nodes, nodes) if isinstance(nodes, int) else nodes
    if not 0 < least <= most:
        raise UsageError("nodes={nodes} is no number of nodes", hint="nodes=(1, 4)", nodes=nodes)
    return least, most


def _deployed(options: dict[str, Any], devices: list[str], age_s: float, width: int) -> Served:
    from ray import serve as ray_serve

    from zhcache.cluster.replica import Replica

    said = json.dumps([__version__, options, devices, age_s], sort_keys=True)
    # A driver keeps the router of a name that it has talked to, whatever is deployed there.
    name = f"{NAME}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    try:
        ray_serve.start(proxy_location="Disabled")
        told = ray_serve.status().applications
        for other in told:
            if _is_ours(other) and other != name:
                ray_serve.delete(other)
        if name in told and told[name].status in _SERVING:
            # To run it again would start every replica anew.
            return Served(name, ray_serve.get_app_handle(name), min(width, _WIDEST))
        app = ray_serve.deployment(Replica, name="node", **options).bind(devices, age_s)
        handle = ray_serve.run(app, name=name, route_prefix=None)
    except Exception as error:
        raise _failure(name) or meant(error) from error
    return Served(name, handle, min(width, _WIDEST))


def _failure(name: str) -> ZhcacheError | None:
    """Returns why replicas did not start, which Serve's error leaves out."""
    from ray import serve as ray_serve

    app = ray_serve.status().applications.get(name)
    said = [] if app is None else [one.message for one in app.deployments.values() if one.message]
    if not said:
        return None
    return ZhcacheError(
        "the replicas of the cluster did not start: {reason}",
        hint="see `serve status`; zhcache must be installed on every node",
        reason=said[0].strip().splitlines()[-1],
    )
