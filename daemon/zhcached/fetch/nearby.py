"""Whether sources that are far leave a file to those of this site. Pure; the caller holds the lock.

What a site has must not come over its line once more, so they do, however much sooner it would
come. But a source of the site that sends a small part of what the hubs do, and just enough not to
be taken for dead, would make hours of minutes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Final

from zhcached.fetch.roster import Standing

# Above what many machines get of one gateway that is set up for them: they must not all turn to the
# line when it is busiest. 50 of them behind 10 Gbit/s have a fifth of what a line of 1 Gbit/s gave.
HOPELESS: Final = 16.0
# As long as a stall, by default: a gateway may have to begin itself.
HOPELESS_S: Final = 30.0

Lately = Callable[[str], float | None]
"""Returns what a source gave lately to this machine, all files together, in bytes per second."""


def is_hopeless(near: float | None, far: float | None) -> bool:
    """Tells whether sources of this site send too little beside what one far source gave."""
    return near is not None and far is not None and near * HOPELESS < far


def rank(sha256: str, own: str, others: Collection[str]) -> int:
    """Returns how many of the other machines are to bring a file over the line before this one.

    Source: rendezvous hashing; Thaler and Ravishankar, "Using name-based mappings to increase hit
    rates", 1998.
    """

    def weight(node: str) -> bytes:
        return hashlib.sha256(f"{sha256} {node}".encode()).digest()

    return sum(weight(other) > weight(own) for other in others)


class Nearby:
    """What is found of the sources of this site, over one file."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._is_hopeless = False

    def look(self, standings: Sequence[Standing], lately: Lately, now: float) -> None:
        """Compares the sources of this site that serve with the best of those that wait for them.

        Where none serves, what was found last still counts.
        """
        near = [s for s in standings if s.offer.is_near and s.seats]
        if not near:
            return
        far = [s for s in standings if not s.offer.is_near and s.out is None]
        sent = [rate for s in near if (rate := lately(s.offer.source)) is not None]
        given = [rate for s in far if (rate := lately(s.offer.source)) is not None]
        if not is_hopeless(sum(sent) if sent else None, max(given, default=None)):
            self._since, self._is_hopeless = None, False
            return
        self._since = now if self._since is None else self._since
        self._is_hopeless = now - self._since >= HOPELESS_S

    def keeps_off(self, standing: Standing, standings: Sequence[Standing]) -> bool:
        """Tells whether a source is to leave the file to a better one of this site.

        Silence does not end that, before the floor does: many machines that each made up for one
        slow machine of their site would fill the line.
        """
        if standing.offer.is_near or self._is_hopeless:
            return False
        better = standings[: standings.index(standing)]
        return any(s.offer.is_near and s.seats and not s.is_slow for s in better)
