# pyright: reportMissingImports=false
"""``zhcache.cluster.serve``: a thin replica on each node of a Ray cluster.

Ray is imported in functions alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zhcache import __version__
from zhcache.cluster.joining import ray_of
from zhcache.cluster.retry import is_taken, meant
from zhcache.cluster.served import NAME, Served, applications, handle_of, newest, running
from zhcache.cluster.settings import bounds, check_settings
from zhcache.cluster.task import key_of
from zhcache.errors import Busy, DaemonUnreachable, UsageError, ZhcacheError
from zhcache.i18n import translate

_STATS_S = 0.5
"""How often replicas tell how they are."""

_WIDEST = 256
"""Calls of one batch under way: each has a thread."""

_LEAVE_S = 120.0
"""How long a replica that is let go has for the calls that run; those that wait go elsewhere."""

_PATIENCE_S = 300.0
"""How long another script may take to set up the cluster, the leaving of old replicas counted."""

_PAUSE_S = 0.2

DEPTH, QUEUE, SPILL_S, AGE_S = 32, 1000, 30.0, 30.0
"""What ``serve`` takes where nothing is said."""


def serve(
    repos: str | Sequence[str],
    *,
    address: str = "auto",
    variant: str | None = None,
    nodes: int | tuple[int, int] | None = None,
    device: str | Sequence[str] = "auto",
    depth: int = DEPTH,
    queue: int = QUEUE,
    spill_s: float = SPILL_S,
    age_s: float = AGE_S,
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
        UsageError: An argument cannot be meant; Ray is not installed; the cluster has fewer nodes
            than are asked for.
        DaemonUnreachable: No cluster answers.
        NotPermitted: It has no token authentication, or refused this token.
        Busy: Another script sets it up for longer than this one waits.
        ZhcacheError: What else the cluster reported.
    """
    models = sorted(
        {key_of(repo, variant) for repo in ([repos] if isinstance(repos, str) else repos)}
    )
    devices = [device] if isinstance(device, str) else list(device)
    check_settings(
        device=devices, nodes=nodes, depth=depth, queue=queue, spill_s=spill_s, age_s=age_s
    )
    ray = ray_of(address, is_open=is_open)
    least, most = bounds(nodes, _count(ray, labels or {}))
    options = deployment(models, least, most, depth, queue, spill_s)
    if labels:
        options["ray_actor_options"]["label_selector"] = dict(labels)
    with _alone(ray):
        served = _deployed(options, devices, age_s, most)
    _warn(served)
    return served


def deployment(
    models: Sequence[str], least: int, most: int, depth: int, queue: int, spill_s: float
) -> dict[str, Any]:
    """Returns what Serve is told of the replicas, as ``serve`` takes it; ``models`` are keys."""
    options: dict[str, Any] = {
        "max_ongoing_requests": depth,
        "max_queued_requests": queue,
        "max_replicas_per_node": 1,
        "graceful_shutdown_timeout_s": _LEAVE_S,
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
    ray = ray_of(address, is_open=is_open)
    served = _found()
    if served is None:
        least, most = bounds(None, _count(ray, {}))
        options = deployment(models, least, most, DEPTH, QUEUE, SPILL_S)
        with _alone(ray):
            # Another script may have done it meanwhile, for models of its own.
            served = _found() or _deployed(options, list(devices), AGE_S, most)
    _check_devices(served, list(devices))
    _warn(served)
    return served


def _found() -> Served | None:
    try:
        told = applications()
        name = newest(told)
        if name is None:
            return None
        return Served(name, handle_of(name), _WIDEST, max(running(told[name]), 1))
    except Exception as error:
        raise meant(error) from error


@contextlib.contextmanager
def _alone(ray: Any) -> Iterator[None]:
    """Sets up the cluster as the only script: two at once would take each other's replicas away.

    What keeps others out is the name of an actor, which Ray gives to one alone and takes back when
    this script ends, however it does.
    """

    class Turn:
        pass

    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            options = {"name": f"{NAME}-turn", "namespace": NAME, "num_cpus": 0}
            turn = ray.remote(Turn).options(**options).remote()
            # Ray's client says only now that the name was taken.
            ray.get(turn.__ray_ready__.remote())
            break
        except Exception as error:
            # The actor may be given to a node of which Ray has not heard yet that it is gone.
            told = Busy("another script sets up the cluster", hint="see `serve status`")
            if not is_taken(error):
                told = meant(error)
            is_lost = isinstance(told, DaemonUnreachable)
            if not (is_taken(error) or is_lost) or time.monotonic() > until:
                raise told from error
        time.sleep(_PAUSE_S)
    try:
        yield
    finally:
        ray.kill(turn)


def _warn(served: Served) -> None:
    """Warns of nodes that stand idle: calls pass them by, so that nobody would be told."""
    with contextlib.suppress(ZhcacheError):
        for one in served.nodes():
            if one.failure is not None:
                text = translate(
                    "a node makes no images, others go on without it: {reason}",
                    reason=str(one.failure),
                )
                warnings.warn(text, stacklevel=3)


def _check_devices(served: Served, wanted: list[str]) -> None:
    """Refuses devices that what is served there does not use: replicas are everybody's."""
    if wanted != ["auto"] and (used := served.devices()) != wanted:
        raise UsageError(
            "the cluster is served with device={used}, not {wanted}",
            hint="leave device out, or call zhcache.cluster.serve with it first",
            used=used,
            wanted=wanted,
        )


def _count(ray: Any, labels: Mapping[str, str]) -> int:
    """Returns how many nodes there are that have these labels."""
    alive = [one for one in ray.nodes() if one["Alive"]]
    return sum(labels.items() <= one["Labels"].items() for one in alive)


def _deployed(options: dict[str, Any], devices: list[str], age_s: float, most: int) -> Served:
    from ray import serve as ray_serve

    from zhcache.cluster.replica import Replica

    said = json.dumps([__version__, options, devices, age_s], sort_keys=True)
    # A driver keeps the router of a name that it has talked to, whatever is deployed there.
    name = f"{NAME}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    try:
        ray_serve.start(proxy_location="Disabled")
        told = applications()
        if name in told:
            # To run it again would start every replica anew.
            handle = handle_of(name)
        else:
            app = ray_serve.deployment(Replica, name="node", **options).bind(devices, age_s)
            handle = ray_serve.run(app, name=name, route_prefix=None)
        # Only now: batches that call the other ones go on here.
        for other in told:
            if other != name:
                ray_serve.delete(other)
    except Exception as error:
        raise _failure(name) or meant(error) from error
    width = min(most * options["max_ongoing_requests"], _WIDEST)
    return Served(name, handle, width, most)


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
