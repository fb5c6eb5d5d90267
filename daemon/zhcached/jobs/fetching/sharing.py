"""Machines of a site that bring the same model in at once: each large file over the line once.

What a machine brings from a hub it shows to its peers as it comes, as a gateway does to clients. So
before a file is begun the peers are asked who has it or brings it, and whoever does is read from.
All begin with other files: which ones follows from the digests and the machines' names.

Only what comes from elsewhere than a peer that has not all of it is shown: two machines that read
one file from each other would both wait for ever.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from zhcached.clock import Clock
from zhcached.config import DownloadConfig
from zhcached.fetch.nearby import rank
from zhcached.fetch.offer import Offer
from zhcached.jobs.asking.brief import Brief
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.holders import told
from zhcached.jobs.fetching.lanes import is_small
from zhcached.sources.peer import PeerSource
from zhcached.sources.trust import FileTrust

ASK_S: Final = 1.0
KEEP_S: Final = 600.0
WAIT_S: Final = 0.25
"""For each machine that is to begin before this one, should all have been asked at one moment."""
LONGEST_WAIT_S: Final = 1.0
WORTH_WAITING_BYTES: Final = 16 * 2**20


class Shown(NamedTuple):
    """A blob that peers may read: for which repositories that are not public it came, and its size.

    ``until`` is monotonic seconds.
    """

    closed: frozenset[str]
    size: int
    until: float


class Origins:
    """What this machine brings and may show as it comes, and has brought just now. Thread-safe.

    Attributes:
        node: The machine's name among its peers, a new one with each start.
    """

    def __init__(self, clock: Clock) -> None:
        self.node = secrets.token_hex(8)
        self._clock = clock
        self._lock = threading.Lock()
        self._shown: dict[str, Shown] = {}

    def bring(self, sha256: str, size: int, closed: frozenset[str]) -> None:
        """A blob begins to come from where no machine waits for this one."""
        with self._lock:
            self._shown[sha256] = Shown(closed, size, math.inf)

    def end(self, sha256: str, size: int, closed: frozenset[str]) -> None:
        """It is here. Until its snapshot is published nothing else says that it may be given."""
        now = self._clock.monotonic()
        with self._lock:
            for old in [name for name, shown in self._shown.items() if shown.until < now]:
                del self._shown[old]
            self._shown[sha256] = Shown(closed, size, now + KEEP_S)

    def drop(self, sha256: str) -> None:
        """It did not come."""
        with self._lock:
            self._shown.pop(sha256, None)

    def shown(self, sha256: str) -> Shown | None:
        """Returns what is known of a blob that may be shown; None for all others."""
        shown = self._shown.get(sha256)
        return shown if shown is not None and shown.until >= self._clock.monotonic() else None


class Sharing:
    """The peers of one job, and what they are asked. Thread-safe.

    Args:
        brief: What is to be fetched.
        config: Connections.
        health: Says whom not to wait for, and is told what came.
        origins: What this machine shows.
    """

    def __init__(
        self, brief: Brief, config: DownloadConfig, health: Health, origins: Origins
    ) -> None:
        self._config = config
        self._health = health
        self._own = origins.node
        # A gateway of this site asks the hub once for all, over a wider link than a peer's.
        has_gateway = any(r.is_hub and r.source in brief.near for r in brief.resolutions.values())
        known = [] if has_gateway else list(brief.sources.values())
        self._peers = [p for p in known if isinstance(p, PeerSource) and p.name in brief.near]
        self._others = {peer.node for peer in self._peers if peer.node}
        self._is_alone = False

    def in_order(self, files: Sequence[FileTrust]) -> list[FileTrust]:
        """Returns the files, first those that this machine is to bring before all others."""
        return sorted(files, key=self._rank)

    def offers(self, file: FileTrust, offers: Sequence[Offer]) -> tuple[list[Offer], bool]:
        """Returns the offers with the peers that show a file now, and whether there are any."""
        sha256 = file.promise.sha256
        if not self._peers or is_small(file) or sha256 is None or any(o.is_near for o in offers):
            return list(offers), False
        shown = self._shown_by(sha256)
        if not shown and not self._is_alone and file.promise.size >= WORTH_WAITING_BYTES:
            wait_s = min(self._rank(file) * WAIT_S, LONGEST_WAIT_S)
            time.sleep(wait_s)
            shown = self._shown_by(sha256) if wait_s else []
            # Nobody brings what others were to bring: they do not want this model now.
            self._is_alone = bool(wait_s) and not shown
        found = [
            Offer(
                source=peer.name,
                # One that says no name of its own knows of nothing that is coming.
                locate=partial(peer.locate_coming if peer.node else peer.locate_blob, sha256),
                max_connections=self._config.connections,
                rate=self._health.rate(peer.name),
                is_near=True,
            )
            for peer in shown
        ]
        return [*found, *offers], bool(found)

    def _rank(self, file: FileTrust) -> int:
        return rank(file.promise.sha256 or "", self._own, self._others)

    def _shown_by(self, sha256: str) -> list[PeerSource]:
        sound = {one.name for one in self._health.ranked() if one.state in ("ok", "unknown")}
        asked = [peer for peer in self._peers if peer.name in sound]
        answers = told(asked, lambda peer: peer.showing(sha256, ASK_S), self._health, ASK_S)
        # Who is late once is not waited for before each file.
        self._peers = [peer for peer in asked if peer.name in answers]
        return [peer for peer in self._peers if answers[peer.name]]
