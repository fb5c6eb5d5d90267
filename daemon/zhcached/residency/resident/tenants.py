"""Who has a resident pipeline open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zhcache.protocol import residency
from zhcache.protocol.placement import Placed
from zhcached.residency.resident.calls import Listener
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.planned import home_of


@dataclass(eq=False, slots=True)
class Tenant:
    """One client who has the pipeline open, or waits for it.

    Attributes:
        uid: Whose client it is.
        pid: Its process.
        lease: Its lease in the store.
        listener: Told what becomes of it.
        is_wish: It waits until the pipeline is warm and never uses it.
        is_opened: Whether it has the pipeline.
    """

    uid: int
    pid: int
    lease: str
    listener: Listener
    is_wish: bool = False
    is_opened: bool = False

    def open(
        self, kind: Kind, loaded: residency.Loaded, devices: list[str], plan: Placed | None
    ) -> None:
        """Tells the client that a worker holds the pipeline, and where all are if several are."""
        self.is_opened = True
        self.listener.tell(
            residency.Opened(
                lease=self.lease,
                repo=kind.repo,
                commit=kind.made_of or kind.commit,
                variant=kind.variant,
                device=kind.device if plan is None else home_of(plan),
                class_name=loaded.class_name,
                parameters=loaded.parameters,
                bytes=loaded.bytes,
                memory_report=loaded.memory_report,
                has_one_net=loaded.has_one_net,
                placement=kind.placement,
                plan=plan,
                devices=devices,
            )
        )


def processes(tenants: Iterable[Tenant]) -> list[str]:
    """Returns the processes of some, in words."""
    by_uid = sorted({(tenant.uid, tenant.pid) for tenant in tenants})
    return [f"process {pid} of uid {uid}" for uid, pid in by_uid]
