# pyright: reportMissingImports=false
"""The replicas that a cluster serves, as a batch or a script calls them.

Serve lets calls wait without end where what they were meant for is served no more: replaced, or
left without a node. So whoever waits looks now and then, and goes on to what is served instead.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from zhcache.cluster.retry import is_of_call, meant
from zhcache.cluster.task import Model, Picture, Task
from zhcache.errors import Busy, DaemonUnreachable, ZhcacheError
from zhcache.protocol.failure import to_error
from zhcache.protocol.messages import ErrorInfo

NAME = "zhcache"
_TAKES_CALLS = ("RUNNING", "DEPLOYING", "UNHEALTHY")
"""What is unhealthy lost a node or a replica, which Serve replaces; the others take calls."""

_LOOK_S = 5.0
_SOON_S = 1.0


@dataclass(frozen=True)
class Standing:
    """How a node of a cluster is.

    Attributes:
        node: Its name.
        warm: Models that need not be loaded there.
        waiting: Calls that wait or run there.
        failure: Why it makes no images: its daemon is away, or of another version. Others do.
    """

    node: str
    warm: tuple[str, ...] = ()
    waiting: int = 0
    failure: ZhcacheError | None = None


class Served:
    """A cluster's replicas, as a batch or a script calls them. Thread-safe.

    Attributes:
        name: Of the application in Serve; another one's, once that took its place.
        width: Calls that are worth having under way at a time.
        abreast: Models that are worth having under way at a time: of as many as there are nodes
            some have the same home.
    """

    def __init__(self, name: str, handle: Any, width: int, nodes: int) -> None:
        self.name = name
        self.width = width
        self.abreast = 2 * nodes
        self._handle = handle
        self._is_closed = False
        self._under_way: set[Any] = set()
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._looked = -math.inf
        self._told: dict[str, Any] = {}

    def settle(self, model: Model) -> str:
        """As ``Crew`` says."""
        return self._ask("settle", model.key, wanted=msgspec.to_builtins(model))["commit"]

    def make(self, task: Task) -> Picture:
        """As ``Crew`` says.

        Raises:
            DaemonUnreachable: The node or replica was lost, or is served no more.
            Busy: The queues are full, or there is no node at all.
            ZhcacheError: What the call ended with.
        """
        answer = self._ask("make", task.model.key, task=msgspec.to_builtins(task))
        return Picture(**answer["picture"])

    def devices(self) -> list[str]:
        """Returns the devices that the replicas use."""
        return self._ask("devices", "")["devices"]

    def nodes(self) -> list[Standing]:
        """Returns how the nodes are, each asked for itself.

        Raises:
            ZhcacheError: The cluster does not say so within seconds.
        """
        with self._looking:
            handle = self._handle
        try:
            asked = handle.broadcast("tell")
            told = asked.results(timeout_s=_LOOK_S, return_exceptions=True)
        except Exception as error:
            raise meant(error) from error
        return sorted(map(_standing, told), key=lambda one: one.node)

    def close(self) -> None:
        """Ends the calls that are under way, and those that come. The replicas stay."""
        with self._lock:
            self._is_closed = True
            left = list(self._under_way)
        for response in left:
            response.cancel()

    def stop(self) -> None:
        """Ends the replicas. What is warm stays so in the nodes' daemons."""
        from ray import serve

        serve.delete(self.name)

    def _ask(self, method: str, model: str, **words: Any) -> dict[str, Any]:
        response = None
        try:
            with self._looking:
                name, handle = self.name, self._handle
            response = getattr(handle, method).remote(model=model, **words)
            with self._lock:
                self._under_way.add(response)
                is_closed = self._is_closed
            if is_closed:
                response.cancel()
            answer = self._waited(response, name)
        except Exception as error:
            told = meant(error)
            if isinstance(told, DaemonUnreachable):
                # So that the next try is not made where this one was lost, if that is no more.
                with contextlib.suppress(Exception):
                    self._served(_SOON_S)
            raise told from error
        finally:
            with self._lock:
                self._under_way.discard(response)
        if "error" in answer:
            raise to_error(msgspec.convert(answer["error"], ErrorInfo))
        return answer

    def _waited(self, response: Any, name: str) -> dict[str, Any]:
        while True:
            try:
                return response.result(timeout_s=_LOOK_S)
            except TimeoutError as error:
                if is_of_call(error):
                    raise
            try:
                self._look(name)
            except BaseException:
                response.cancel()
                raise

    def _look(self, name: str) -> None:
        """Looks whether the application ``name`` takes calls; finds the one that does instead.

        Raises:
            DaemonUnreachable: It is served no more.
            Busy: It is, but on no node at the moment.
        """
        told = self._served(_LOOK_S)
        if name not in told:
            raise DaemonUnreachable(
                "what the cluster served was stopped or replaced",
                hint="call again; see `serve status`",
            )
        if not running(told[name]):
            raise Busy("no node of the cluster takes calls", hint="see `ray status`")

    def _served(self, age_s: float) -> dict[str, Any]:
        """Returns what takes calls, as it was ``age_s`` seconds ago at most; goes on to that."""
        with self._looking:
            if time.monotonic() - self._looked >= age_s:
                self._told = applications()
                self._looked = time.monotonic()
                there = newest(self._told)
                if there is not None and self.name not in self._told:
                    self.name, self._handle = there, handle_of(there)
            return self._told


def _standing(told: Any) -> Standing:
    if isinstance(told, BaseException):
        return Standing("", failure=meant(told))
    failure = told["failure"]
    return Standing(
        told["node"],
        tuple(told["warm"]),
        told["waiting"],
        to_error(msgspec.convert(failure, ErrorInfo)) if failure else None,
    )


def applications() -> dict[str, Any]:
    """Returns what of zhcache's is served at the cluster and takes calls, by name."""
    from ray import serve

    told: Mapping[str, Any] = serve.status().applications
    return {
        name: app
        for name, app in told.items()
        if name.startswith(f"{NAME}-") and app.status in _TAKES_CALLS
    }


def newest(told: Mapping[str, Any]) -> str | None:
    """Returns the name of what was served last: what it replaced may be there for a while."""
    return max(told, key=lambda name: told[name].last_deployed_time_s, default=None)


def handle_of(name: str) -> Any:
    """Returns what calls an application's replicas."""
    from ray import serve

    return serve.get_app_handle(name)


def running(app: Any) -> int:
    """Returns how many replicas of an application run."""
    return sum(one.replica_states.get("RUNNING", 0) for one in app.deployments.values())
