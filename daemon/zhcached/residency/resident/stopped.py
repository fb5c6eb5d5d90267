"""Which resident workers a user may stop, and who keeps the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from zhcached.residency.resident.instance import Instance
from zhcached.residency.resident.instances import users


@dataclass(slots=True)
class Letting:
    """What ``stop`` did: bytes freed on each device, and who has what stayed."""

    freed: list[tuple[str, int]] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)


def is_meant(instance: Instance, repo: str, variant: str | None, device: str | None) -> bool:
    """Tells whether an instance's worker is one that was asked for."""
    kind = instance.kind
    return (
        instance.is_tended
        and kind.repo == repo
        and variant in (None, kind.variant)
        and device in (None, kind.device)
    )


def holder_of(instance: Instance, uid: int, *, may_all: bool, force: bool) -> str | None:
    """Returns who keeps ``uid`` from ending an instance, in words, or None."""
    is_own = may_all or all(tenant.uid == uid for tenant in instance.tenants)
    if instance.tenants and not (force and is_own):
        return f"{instance.kind}: {users(instance)}"
    others = [keeper for keeper in instance.kept.uids if keeper != uid]
    if others and not may_all:
        return f"{instance.kind}: kept warm by uid {', '.join(map(str, others))}"
    return None
