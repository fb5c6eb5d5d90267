"""Which resident workers a user may stop, and who keeps the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from zhcached.residency.resident.instance import Instance
from zhcached.residency.resident.tenants import processes


@dataclass(slots=True)
class Letting:
    """What ``stop`` did.

    Attributes:
        freed: Devices, and the bytes freed there.
        holders: Who has what stayed open, in words.
        keepers: The users for whose wishes something stayed.
        owners: Who has open, in words, what only they or an administrator may end.
    """

    freed: list[tuple[str, int]] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)
    keepers: set[int] = field(default_factory=set)
    owners: list[str] = field(default_factory=list)

    def is_denied(self, instance: Instance, uid: int, *, may_all: bool, force: bool) -> bool:
        """Tells whether ``uid`` may not end an instance, and notes for whose sake it stays."""
        if instance.tenants and not force:
            self.holders += processes(instance.tenants)
            return True
        strangers = [tenant for tenant in instance.tenants if tenant.uid != uid]
        if strangers and not may_all:
            self.owners += processes(strangers)
            return True
        others = {keeper for keeper in instance.kept.uids if keeper != uid}
        if not others or may_all:
            return False
        instance.kept.withdraw(uid)
        self.keepers |= others
        return True


def is_meant(instance: Instance, repo: str, variant: str | None, device: str | None) -> bool:
    """Tells whether an instance's worker is one that was asked for."""
    kind = instance.kind
    return (
        instance.is_tended
        and kind.repo == repo
        and variant in (None, kind.variant)
        and device in (None, kind.device)
    )
