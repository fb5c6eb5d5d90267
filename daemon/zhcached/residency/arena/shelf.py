"""The arenas that are held, and those that were withdrawn and are still mapped by somebody.

Plain state: guarded by the lock of ``Arenas``, waits for nothing, launches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import structlog

from zhcached.clock import Clock
from zhcached.residency.arena.budget import Item
from zhcached.residency.arena.custody import Custody
from zhcached.residency.arena.held import Held, Use

log = structlog.get_logger()


class Shelf:
    """What is held.

    Args:
        custody: Keeps it over a restart.
        clock: Time.
        keep_alive_s: How long an arena stays after its last use.
        name: Names the holder of a lease.

    Attributes:
        name: As given.
    """

    def __init__(
        self, custody: Custody, clock: Clock, keep_alive_s: float, name: Callable[[str], str]
    ) -> None:
        self._custody = custody
        self._clock = clock
        self._keep_alive_s = keep_alive_s
        self.name = name
        self._held: dict[str, Held] = {}
        self._withdrawn: list[Held] = []

    def take_over(self, inherited: Iterable[tuple[str, int]]) -> int:
        """Takes back what an earlier daemon held; returns how many arenas."""
        for held in self._custody.take_over(inherited):
            self._held[held.arena.key] = held
        self._custody.note(list(self._held.values()))
        return len(self._held)

    def __contains__(self, key: str) -> bool:
        return key in self._held

    def __getitem__(self, key: str) -> Held:
        return self._held[key]

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def everything(self) -> Iterator[Held]:
        """Yields the withdrawn ones too."""
        yield from self._held.values()
        yield from self._withdrawn

    def ends(self, held: Held) -> float:
        """Returns when it goes if nothing happens."""
        return held.ends(self._keep_alive_s)

    def holders(self, held: Held) -> list[str]:
        """Returns who has it, as texts."""
        return sorted({self.name(lease) for lease in held.leases})

    def items(self, device: str, but: Collection[str] = ()) -> list[Item]:
        """Returns what is on a device as the plan of room sees it.

        Args:
            device: Where.
            but: Keys to leave out.
        """
        now = self._clock.monotonic()
        return [
            held.item(now, self._keep_alive_s, self.name)
            for held in (*(h for h in self if h.arena.key not in but), *self._withdrawn)
            if held.arena.device == device
        ]

    def put(self, held: Held) -> None:
        """Adds an arena; one that is there already stays, and the new one's memory is freed."""
        if held.arena.key in self._held:
            self._custody.close(held)
            return
        self._held[held.arena.key] = held
        self._custody.keep(held)
        self.note()

    def pin(self, key: str, lease: str, use: Use) -> bool:
        """Lets a lease have an arena; tells whether it had it not."""
        held = self._held[key]
        held.used = held.served[use.uid] = self._clock.monotonic()
        held.snapshots.add((use.repo, use.commit))
        held.restored.discard(lease)
        is_new = lease not in held.leases
        held.leases[lease] = use
        return is_new

    def unpin(self, lease: str, keys: Collection[str] | None = None) -> None:
        """Ends what a lease has; of all arenas where ``keys`` is None."""
        now = self._clock.monotonic()
        touched = False
        for held in self.everything():
            if (keys is None or held.arena.key in keys) and (use := held.leases.pop(lease, None)):
                held.restored.discard(lease)
                held.used = held.served[use.uid] = now
                touched = True
        self._withdrawn, withdrawn = [], self._withdrawn
        for held in withdrawn:
            if held.leases:
                self._withdrawn.append(held)
            else:
                self._custody.close(held)
        if touched and not self.expire():
            self.note()

    def only_keep(self, keys: Collection[str], uid: int) -> None:
        """Has arenas stay for a user as long as somebody wants them kept, whatever he used."""
        for held in self:
            if held.arena.key in keys:
                held.served.pop(uid, None)
        self.note()

    def withdraw(self, key: str) -> None:
        """Gives an arena to nobody any more.

        Its bytes count, and its descriptor is good, until the last lease on it ends: somebody may
        be about to hand over the number, which must not be another file's by then.
        """
        held = self._held.pop(key)
        self._custody.forget(key)
        if held.leases:
            self._withdrawn.append(held)
        else:
            self._custody.close(held)
        self.note()

    def expire(self) -> int:
        """Frees what is over its time; returns how many arenas."""
        now = self._clock.monotonic()
        over = [held.arena.key for held in self if not held.leases and self.ends(held) <= now]
        for key in over:
            log.info("arena.expired", key=key, bytes=self._held[key].arena.bytes)
            self._custody.forget(key)
            self._custody.close(self._held.pop(key))
        if over:
            self.note()
        return len(over)

    def close(self) -> None:
        """Closes what is held, at the daemon's end. Records and the manager's copies stay."""
        for held in self.everything():
            self._custody.close(held)
        self._held.clear()
        self._withdrawn.clear()

    def note(self) -> None:
        """Records who uses what."""
        self._custody.note(list(self._held.values()))
