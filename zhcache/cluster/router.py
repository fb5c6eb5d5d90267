# pyright: reportMissingImports=false
"""Serve's request router over ``route`` and ``homes``. Imports Ray, in Ray's processes alone.

A router lives in each process that has a handle. It knows what replicas tell by
``record_routing_stats``, some half a second old, and what it sent since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from zhcache.cluster.homes import home, homes
from zhcache.cluster.route import Seen, choose


class WarmRouter(RequestRouter):
    """Sends a call to its model's home, or where it is warm, and waits for room there."""

    def initialize_state(self, models: Sequence[str], spill_s: float) -> None:
        """Takes the settings of ``serve``.

        Args:
            models: Those that are dealt to the nodes. Others have the home that their hash gives.
            spill_s: As ``route.choose`` takes it.
        """
        self._models = list(models)
        self._spill_s = spill_s
        self._sent: Counter[str] = Counter()
        self._away: dict[str, object] = {}
        self._dealt: tuple[frozenset[str], dict[str, str]] = (frozenset(), {})

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Returns the one replica that the call goes to, though its queue be full."""
        if pending_request is None:
            return [candidate_replicas]
        # Without it Serve asks again at once, and without end, where the one is full.
        pending_request.routing_context.should_backoff = True
        model = str(pending_request.kwargs.get("model", ""))
        seen = [self._seen(replica) for replica in candidate_replicas]
        nodes = frozenset(one.node for one in seen if one.is_up)
        if self._dealt[0] != nodes:
            self._dealt = nodes, homes(self._models, nodes)
        place = self._dealt[1].get(model) or home(model, nodes)
        chosen = choose(model, place, seen, self._spill_s)
        return [[one for one in candidate_replicas if one.replica_id.unique_id == chosen]]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Counts a call that goes to a replica."""
        super().on_send_request(replica_id)
        self._sent[replica_id.unique_id] += 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Counts a call that is over, however it ended."""
        name = replica_id.unique_id
        self._sent[name] = max(self._sent[name] - 1, 0)

    def on_replica_actor_unavailable(self, replica_id: ReplicaID) -> None:
        """Leaves a replica alone until it tells something new: a dead node's is listed on."""
        super().on_replica_actor_unavailable(replica_id)
        replica = self.curr_replicas.get(replica_id)
        told = replica.routing_stats.get("told") if replica is not None else None
        self._away[replica_id.unique_id] = told

    def _seen(self, replica: RunningReplica) -> Seen:
        name = replica.replica_id.unique_id
        told: dict[str, Any] = replica.routing_stats
        is_away = name in self._away and self._away[name] == told.get("told")
        return Seen(
            replica=name,
            node=str(replica.node_id),
            warm=frozenset(told.get("warm", ())),
            queue_s=told.get("queue_s", 0.0),
            call_s=told.get("call_s", 0.0),
            load_s=told.get("load_s", 0.0),
            sent=self._sent[name],
            depth=replica.max_ongoing_requests,
            is_up=told.get("is_up", True) and not is_away,
        )
