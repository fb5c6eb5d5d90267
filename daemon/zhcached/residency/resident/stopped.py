"""Which resident workers a user may stop, and who keeps the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from zhcached.residency.resident.line import Line
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

    def is_denied(self, line: Line, uid: int, *, may_all: bool, force: bool) -> bool:
        """Tells whether ``uid`` may not end a line's workers, and notes for whose sake it stays."""
        if line.tenants and not force:
            self.holders += processes(line.tenants)
            return True
        strangers = [tenant for tenant in line.tenants if tenant.uid != uid]
        if strangers and not may_all:
            self.owners += processes(strangers)
            return True
        others = {keeper for keeper in line.kept.uids if keeper != uid}
        if not others or may_all:
            return False
        line.kept.withdraw(uid)
        self.keepers |= others
        return True


def is_meant(line: Line, repo: str, variant: str | None, device: str | None) -> bool:
    """Tells whether a line has a worker that was asked for."""
    kind = line.kind
    tended = [instance for instance in line.instances if instance.is_tended]
    return (
        bool(tended)
        and kind.repo == repo
        and variant in (None, kind.variant)
        and (device is None or any(device in one.devices for one in tended))
    )
