"""Which sources serve a file, over how many connections, and what each is to bring. Pure.

The best source begins. The others join as soon as it shows that the file takes a while and the line
is not full; connections join one at a time while they bring something. While a source of this site
sends, those behind it that are far wait: what the site has must not come over its line once more.
The caller holds the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from zhcached.fetch.nearby import Lately, Nearby
from zhcached.fetch.offer import Offer, unknown
from zhcached.fetch.ramp import FREE, FULL_LINE_BYTES_PER_S, RAMP_S, Ramp
from zhcached.fetch.roster import REJOIN_S, Roster, Standing
from zhcached.fetch.segments import Segment, Segments
from zhcached.fetch.shares import PIECE_S, piece_bytes
from zhcached.store.ranges import Ranges

# A smaller file is over before a second source has answered.
MIN_SPREAD: Final = 8 * 2**20
# Long enough to see a full line, short enough that a second source brings its half.
FIRST_LOOK_S: Final = 0.15
# With less than this to go another source is not worth a request.
JOIN_S: Final = 1.0
# A source that brings less than this share, after a while, is let go of: each connection costs
# its operator memory and us a thread, and the file would come no later without it.
LEAST_SHARE: Final = 0.02
PROBE_S: Final = 4.0


class Allotment:
    """The seats of every source, and the stretches that are handed out to them.

    Args:
        offers: Best first; no source twice.
        size: Of the file, in bytes.
        connections: At most as many at once, over all sources.
        now: Monotonic seconds.
    """

    def __init__(self, offers: Sequence[Offer], *, size: int, connections: int, now: float) -> None:
        self.roster = Roster(offers)
        self.segments = Segments()
        self._size = size
        self._connections = connections
        self._nearby = Nearby()
        self._seated_at: dict[str, float] = {}
        rate = offers[0].rate if offers else None
        is_long = rate is not None and size > rate * JOIN_S * 2
        self._settles_at = now if is_long else now + FIRST_LOOK_S

    @property
    def may_spread(self) -> bool:
        """Whether several sources may send this file at once."""
        several = len(self.roster.standings) > 1 and self._connections > 1
        return several and self._size >= MIN_SPREAD

    @property
    def seats(self) -> int:
        """Connections that have something to do, or soon may."""
        return sum(standing.seats for standing in self.roster.standings)

    def until_settling(self, now: float) -> float:
        """Returns in how many seconds ``settle`` is to be called; 0 for now."""
        return max(0.0, self._settles_at - now)

    def settle(
        self, missing: Ranges, wanted: Sequence[int], now: float, lately: Lately = unknown
    ) -> list[Standing]:
        """Lets sources join and go; does nothing if that was done just now.

        Args:
            missing: What the file lacks.
            wanted: Offsets at which somebody waits.
            now: Monotonic seconds.
            lately: What sources gave lately, all files together.

        Returns:
            Those that were let go of.
        """
        if now < self._settles_at:
            return []
        self._settles_at = now + RAMP_S
        rate = self._rate(now)
        if rate >= FULL_LINE_BYTES_PER_S:
            return []
        self._nearby.look(self.roster.standings, lately, now)
        self._leave_to_near()
        self._hurry(missing, wanted, now)
        if not self.may_spread or not self.roster.serving():
            return []
        if missing.total > rate * JOIN_S:
            for standing in self.roster.standings:
                is_able = standing.may_serve(now) and standing.rejoin_at <= now
                if is_able and not standing.seats and not self._waits_for_near(standing):
                    self._join(standing, now)
        return self._let_go(rate, now)

    def hand_out(
        self,
        last: Standing | None,
        missing: Ranges,
        wanted: Sequence[int],
        now: float,
        *,
        takes_silent: bool,
    ) -> Segment | None:
        """Returns the next stretch for a connection that has nothing to do.

        Args:
            last: Whom it asked before; preferred, since its address and connection are warm.
            missing: What the file lacks.
            wanted: Offsets at which somebody waits; handed out first.
            now: Monotonic seconds.
            takes_silent: A silent connection's stretch may be taken over.
        """
        if not self.roster.serving():
            best = self.roster.next_best(now)
            if best is None:
                return None
            self._seat(best, now)
        is_alone = len(self.roster.serving()) == 1
        free = self.segments.unassigned(missing)
        limit_s = self._limit_s(missing.total, now)
        for standing in sorted(self._idle(now), key=lambda s: s is not last):
            segment = (
                self.segments.claim(wanted, standing, now, takes_silent=takes_silent)
                or (self.segments.relieve(standing, now, limit_s) if takes_silent else None)
                or self.segments.take(
                    free, self._piece(standing, free.total, now), standing, now, wanted
                )
                or self.segments.steal(standing, now, is_alone=is_alone, takes_silent=takes_silent)
            )
            if segment is not None:
                return segment
        return None

    def arrived(self, segment: Segment, count: int, now: float) -> bool:
        """Counts bytes; true if one more connection may now join its source."""
        segment.heard(count, now)
        standing = segment.standing
        if not standing.ramp.count(count, now) or not standing.seats:
            return False
        has_room = (
            standing.is_ranged
            and standing.running >= standing.seats
            and standing.seats < self._most(standing)
            and self.seats < self._connections
            and self._rate(now) < FULL_LINE_BYTES_PER_S
        )
        step = standing.ramp.step(now, standing.seats, has_room=has_room)
        standing.seats += step
        return step > 0

    def until_someone_may(self, now: float) -> float | None:
        """Returns how long nobody may be asked, in seconds; None if nobody ever may."""
        serving = self.roster.serving()
        if serving:
            return max(0.0, min(standing.hold_until for standing in serving) - now)
        turn = self.roster.next_turn()
        return None if turn is None else max(0.0, turn - now)

    def _idle(self, now: float) -> list[Standing]:
        return [
            standing
            for standing in self.roster.serving()
            if standing.hold_until <= now
            and not standing.must_restart
            and standing.running < (standing.seats if standing.is_ranged else 1)
        ]

    def _most(self, standing: Standing) -> int:
        if self._size < standing.offer.min_segment:
            return 1
        return min(self._connections, standing.offer.max_connections)

    def _piece(self, standing: Standing, free_bytes: int, now: float) -> int:
        if self._most(standing) == 1 or not standing.is_ranged:
            # One request brings all; what others can bring sooner they take from its end.
            return self._size
        # As many as there will soon be: a rate that is measured on one connection is divided by two
        # when the second joins, and a piece for one would then last twice as long.
        soon = min(FREE, self._most(standing))
        rate = standing.rate(now)
        share = None if rate is None else rate / max(soon, standing.running, standing.seats)
        several = FREE * len(self.roster.standings) if self.may_spread else 1
        return piece_bytes(share, free_bytes, max(several, self.seats))

    def _limit_s(self, missing_bytes: int, now: float) -> float:
        """Returns how long the foremost stretch may take: less when the end is near."""
        rate = self._rate(now)
        left_s = missing_bytes / rate if rate > 0 else 0.0
        return min(2 * PIECE_S, max(1.0, left_s / 2))

    def _rate(self, now: float) -> float:
        return sum(self._shown(standing, now) for standing in self.roster.serving())

    def _shown(self, standing: Standing, now: float) -> float:
        """Returns the rate of a source; a remembered one counts until it should have sent."""
        measured = standing.pace.rate(now)
        if measured is None and now - self._seated_at[standing.offer.source] < JOIN_S:
            measured = standing.offer.rate
        return measured or 0.0

    def _join(self, standing: Standing, now: float) -> None:
        if self.seats >= self._connections:
            fullest = max(self.roster.standings, key=lambda s: s.seats)
            if fullest.seats < 2:
                return
            # What it is sending on that seat it finishes; then it is given no more there.
            fullest.seats -= 1
        self._seat(standing, now)

    def _leave_to_near(self) -> None:
        """Has those go that stood in for a source of this site which serves again."""
        for standing in self.roster.serving():
            if self._waits_for_near(standing):
                standing.seats = 0

    def _waits_for_near(self, standing: Standing) -> bool:
        return self._nearby.keeps_off(standing, self.roster.standings)

    def _seat(self, standing: Standing, now: float) -> None:
        standing.seats, standing.ramp = 1, Ramp()
        self._seated_at[standing.offer.source] = now

    def _let_go(self, rate: float, now: float) -> list[Standing]:
        serving = self.roster.serving()
        if len(serving) < 2 or rate <= 0:
            return []
        gone = [
            s
            for s in serving
            if now - self._seated_at[s.offer.source] > PROBE_S
            # One of this site costs nobody's line, and shows when it is fast again.
            and not s.offer.is_near
            and s.running
            and (s.pace.rate(now) or 0.0) < LEAST_SHARE * rate
        ]
        for standing in gone:
            standing.seats = 0
            standing.rejoin_at = now + REJOIN_S
        return gone

    def _hurry(self, missing: Ranges, wanted: Sequence[int], now: float) -> None:
        """Gives the fastest source one more seat when a reader waits and all are busy elsewhere."""
        free = self.segments.unassigned(missing)
        waits = any(
            free.first_gap(offset) != offset or self.segments.is_far(offset, now)
            for offset in wanted
        )
        ranged = [s for s in self.roster.serving() if s.seats < self._most(s) and s.is_ranged]
        if waits and ranged and not self._idle(now) and self.seats < self._connections:
            max(ranged, key=lambda s: s.rate(now) or 0.0).seats += 1
