"""Which bytes of an ingest are there, how safely, and who sent them. Pure; not thread-safe.

Three sets of offsets: *claimed* (a thread is writing them now), *received* (written, perhaps only
to the page cache) and *durable* (synced and journaled; what a restart finds). The first writer of
an offset wins and nobody writes it again until it is forgotten, because the hash may already have
gone past it: else the file could differ from the digest that proves it.
"""

from __future__ import annotations

from zhcached.store.ranges import Ranges


class Extents:
    """The bytes of one ingest, as offsets. ``received`` and ``durable`` are for reading alone.

    Args:
        restored: What a journal says is durable, by source; taken over.
    """

    def __init__(self, restored: dict[str, Ranges]) -> None:
        self.received = Ranges()
        for ranges in restored.values():
            self.received.update(ranges)
        self.durable = self.received.copy()
        self.unsynced_bytes = 0
        self._claimed = Ranges()
        self._by_source = restored
        self._unjournaled: dict[str, Ranges] = {}

    @property
    def is_claimed(self) -> bool:
        """Whether a thread is writing."""
        return bool(self._claimed)

    @property
    def is_unjournaled(self) -> bool:
        """Whether something was received that a restart would not find."""
        return any(self._unjournaled.values())

    def by_source(self) -> dict[str, Ranges]:
        """Returns which source sent which range, those of earlier runs included."""
        return {source: ranges.copy() for source, ranges in self._by_source.items() if ranges}

    def claim(self, start: int, end: int) -> Ranges:
        """Returns what of ``start..end`` nobody wrote or is writing: the caller does now."""
        fresh = self.received.gaps_within(start, end)
        if self._claimed:
            fresh.subtract(self._claimed)
        self._claimed.update(fresh)
        return fresh

    def give_back(self, fresh: Ranges) -> None:
        """Ends a claim of which nothing was written."""
        self._claimed.subtract(fresh)

    def receive(self, fresh: Ranges, source: str) -> None:
        """Ends a claim that was written."""
        self._claimed.subtract(fresh)
        self.received.update(fresh)
        self._by_source.setdefault(source, Ranges()).update(fresh)
        self._unjournaled.setdefault(source, Ranges()).update(fresh)
        self.unsynced_bytes += fresh.total

    def take_unjournaled(self) -> dict[str, Ranges]:
        """Returns, once, what is to be synced and journaled now, by source."""
        fresh, self._unjournaled = self._unjournaled, {}
        self.unsynced_bytes = 0
        return fresh

    def settle(self, fresh: dict[str, Ranges]) -> None:
        """Counts as durable what was synced and journaled."""
        for ranges in fresh.values():
            self.durable.update(ranges)

    def forget(self, dropped: Ranges) -> None:
        """Has these offsets be missing again."""
        for kept in (self.received, self.durable, *self._by_source.values()):
            kept.subtract(dropped)
        for kept in self._unjournaled.values():
            kept.subtract(dropped)
