"""Who fetches which stretch of a file. Pure; the caller holds the lock.

Stretches are taken from the front, so that the hash, which runs from the front, finds its bytes
still in the page cache; before all others come those at which somebody waits. When all is given
out, an idle connection takes the later part of the running stretch that would end last, or all of
one that has fallen silent: the file never waits for one slow connection alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from zhcached.fetch.pace import Pace
from zhcached.fetch.roster import Standing
from zhcached.fetch.shares import MIN_PIECE, stolen_bytes
from zhcached.store.ranges import Ranges

# After this long without a byte a stretch may be taken over by somebody who has nothing to do.
SILENT_S: Final = 1.0
# How far from the offset that a reader waits at its next bytes are fetched before all others.
AHEAD: Final = 32 * 2**20
# A source's connections share its rate, so that one more for its own rest brings little.
LEAST_OF_OWN: Final = 2**20
# What a connection ends by itself within this is not given to another one of its source, which has
# most of it on the way already and would send it twice.
OWN_ENDS_S: Final = 1.0
# Times faster than the one it takes from while there is other work.
CLEARLY: Final = 2.0
# A reader waits this long for a running stretch to come to its offset.
WAIT_S: Final = 1.0


@dataclass(slots=True, eq=False)
class Segment:
    """The stretch ``position..end`` that one connection is to bring.

    Its thread moves ``position``; another may lower ``end``, so it is read anew at every step.

    Attributes:
        standing: The source that is to send it.
        heard_at: When it was handed out, or bytes of it last came.
        patience_s: Silence after which it may be taken over. Doubled each time, so that a source
            that always thinks for long before it answers is not asked anew for ever.
        was_lost: It had fallen silent, and all that was still to come was taken over.
        pace: Of this stretch's connection.
    """

    position: int
    end: int
    standing: Standing
    heard_at: float
    patience_s: float
    was_lost: bool = False
    pace: Pace = field(default_factory=Pace)

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return max(0, self.end - self.position)

    def is_silent(self, now: float) -> bool:
        """Tells whether nothing has come for so long that another may take it over."""
        return now - self.heard_at >= self.patience_s

    def reaches_late(self, offset: int, now: float) -> bool:
        """Tells whether its bytes will not be at ``offset`` soon."""
        rate = self.rate(now)
        return rate is not None and offset - self.position > rate * WAIT_S

    def rate(self, now: float) -> float | None:
        """Returns what its connection brings, in bytes per second; None if that is not known."""
        measured = self.pace.rate(now)
        return self.standing.share(now) if measured is None else measured

    def heard(self, count: int, now: float) -> None:
        """Bytes of it came, ``count`` of them."""
        if not self.pace.has_begun:
            # From the first byte on: the wait for an answer says nothing of what follows.
            self.pace.go(now)
        self.pace.add(count, now)
        self.standing.pace.add(count, now)
        self.heard_at = now


class Segments:
    """The running stretches of one file.

    Attributes:
        dropped: How many have ended so far.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._running: list[Segment] = []

    def __len__(self) -> int:
        return len(self._running)

    def unassigned(self, missing: Ranges) -> Ranges:
        """Returns what of ``missing`` no connection is bringing."""
        free = missing.copy()
        for segment in self._running:
            if segment.left:
                free.remove(segment.position, segment.end)
        return free

    def take(
        self,
        free: Ranges,
        piece: int,
        standing: Standing,
        now: float,
        wanted: Sequence[int] = (),
    ) -> Segment | None:
        """Returns a new running segment, a free stretch; None if there is none.

        Args:
            free: What nobody brings.
            piece: Longest stretch to give out, in bytes.
            standing: The source that is to send it.
            now: Monotonic seconds.
            wanted: Offsets at which somebody waits; they and what follows them come first.
        """
        for start, end in _in_order(free, wanted):
            until = min(end, start + piece)
            return self._run(Segment(start, until, standing, now, SILENT_S), now)
        return None

    def steal(
        self,
        standing: Standing,
        now: float,
        *,
        is_alone: bool = False,
        takes_silent: bool = True,
    ) -> Segment | None:
        """Returns what ``standing`` takes over from the stretch that would end last.

        Args:
            standing: The source that has nothing to do.
            now: Monotonic seconds.
            is_alone: No other source serves. Then even a source from which nothing comes any more
                may replace its own silent connection: only that one may hang.
            takes_silent: A silent stretch may be taken; not where our own limit makes the silence.
        """
        best: tuple[float, Segment, int] | None = None
        for victim in self._running:
            if not victim.left:
                continue
            if takes_silent and victim.is_silent(now):
                # Whether it will ever go on is not known; that it is worth a request is.
                may = is_alone or standing.share(now) != 0
                taken, lasts = victim.left if may else 0, float("inf")
            else:
                taken, lasts = _loot(victim, standing, now)
            if taken and (best is None or lasts > best[0]):
                best = (lasts, victim, taken)
        if best is None:
            return None
        _, victim, taken = best
        return self._cut(victim, victim.end - taken, standing, now)

    def claim(
        self, wanted: Sequence[int], standing: Standing, now: float, *, takes_silent: bool = True
    ) -> Segment | None:
        """Returns a stretch from a wanted offset on that its connection will not reach soon."""
        if standing.share(now) == 0:
            return None
        for offset in wanted:
            for victim in self._running:
                if not victim.position <= offset < victim.end:
                    continue
                if takes_silent and victim.is_silent(now):
                    return self._cut(victim, victim.position, standing, now)
                if victim.reaches_late(offset, now):
                    return self._cut(victim, offset, standing, now)
        return None

    def relieve(self, standing: Standing, now: float, limit_s: float) -> Segment | None:
        """Returns the later part of the foremost stretch, if that would last too long as it is.

        The hash, and whoever reads the file in order, waits for the foremost one: a slow connection
        there would leave the whole file to be hashed when its last byte is there.

        Args:
            standing: The source that takes it; only one that is clearly faster.
            now: Monotonic seconds.
            limit_s: How long the foremost stretch may take from now.
        """
        first = min((s for s in self._running if s.left), key=lambda s: s.position, default=None)
        if first is None or first.standing is standing:
            return None
        own, rate = first.rate(now), standing.share(now)
        if own is None or rate is None or rate < CLEARLY * own or first.left <= own * limit_s:
            return None
        at = first.position + int(own * limit_s / 2)
        return self._cut(first, at, standing, now) if first.end - at >= MIN_PIECE else None

    def is_far(self, offset: int, now: float) -> bool:
        """Tells whether ``offset`` belongs to a running stretch that will not reach it soon."""
        return any(
            s.position <= offset < s.end and s.reaches_late(offset, now) for s in self._running
        )

    def drop(self, segment: Segment, now: float) -> None:
        """Ends ``segment``; what it did not bring is free again."""
        self.dropped += 1
        self._running.remove(segment)
        segment.standing.running -= 1
        segment.standing.pace.stop(now)

    def _cut(self, victim: Segment, at: int, standing: Standing, now: float) -> Segment:
        taken = Segment(at, victim.end, standing, now, SILENT_S)
        if at <= victim.position:
            taken.patience_s = 2 * victim.patience_s
            victim.was_lost = victim.is_silent(now)
        victim.end = at
        return self._run(taken, now)

    def _run(self, segment: Segment, now: float) -> Segment:
        self._running.append(segment)
        segment.standing.running += 1
        segment.standing.pace.go(now)
        return segment


def _loot(victim: Segment, thief: Standing, now: float) -> tuple[int, float]:
    """Returns how much of ``victim`` is taken, and how many seconds it would last as it is."""
    own, rate = victim.rate(now), thief.share(now)
    if own is None or rate is None:
        # What is not known of one is taken to be as with the other.
        own = rate = (own or rate) or 1.0
    taken = stolen_bytes(victim.left, own, rate, thief.latency_s)
    if victim.standing is thief and (
        taken < min(LEAST_OF_OWN, victim.left) or victim.left < own * OWN_ENDS_S
    ):
        taken = 0
    return taken, victim.left / own if own > 0 else float("inf")


def _in_order(free: Ranges, wanted: Sequence[int]) -> Iterator[tuple[int, int]]:
    for offset in wanted:
        for start, end in free:
            if end > offset and start < offset + AHEAD:
                yield max(start, offset), end
    yield from free
