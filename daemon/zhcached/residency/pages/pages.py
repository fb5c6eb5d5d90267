"""Warm on the CPU: the files of a snapshot stay in the page cache.

Whoever reads them then, with whatever library, reads memory. Where the system lets us, their pages
are locked; elsewhere what the kernel took is read again, and that is said. What is kept is
recorded (``wishes``), so that the next daemon goes on keeping it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil
import structlog

from zhcache.errors import Busy, Cancelled, NoSpace, ZhcacheError
from zhcache.protocol.messages import Resident
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.clock import Clock
from zhcached.residency.pages import wishes
from zhcached.residency.pages.reader import Reader, Report, files_of
from zhcached.residency.pages.room import Claim, Full, Room, TooLarge, make_room
from zhcached.residency.pages.wishes import Wish
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store

LOOK_S = 10.0
"""How often what could not be locked is looked after; half as often each time some was gone."""

LOOK_MAX_S = 600.0
SPARE_BYTES = 512 * 2**20
"""Memory that stays free when pages are read again: the kernel took them for a reason."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Kept:
    """A wish that is granted, or about to be: the files it is about, by digest."""

    wish: Wish
    files: dict[str, int]
    is_read: bool = False
    look_s: float = LOOK_S
    next_look: float = 0.0


class Pages:
    """What is kept in the page cache. Thread-safe; ``keep`` and ``refresh`` block for long.

    Args:
        store: Whose files.
        clock: The time.
        capacity: Tells how many bytes may be kept now.
        keep_alive_s: Seconds a snapshot stays after its last use, at the least.
    """

    def __init__(
        self, store: Store, clock: Clock, capacity: Callable[[], int], keep_alive_s: float
    ) -> None:
        self._store = store
        self._clock = clock
        self._capacity = capacity
        self._keep_alive_s = keep_alive_s
        self._record = store.layout.root / "warm.json"
        self._guard = threading.Lock()
        self._kept: dict[tuple[str, str, int], _Kept] = {}
        self._reader = Reader(store.blobs, lambda sha256: sha256 in _union(self._all()))
        self._closed = threading.Event()

    def keep(
        self,
        manifest: Manifest,
        uid: int,
        keep_s: float | None,
        report: Report = lambda *_: None,
    ) -> Resident:
        """Reads a snapshot into memory and keeps it there; returns what is there then.

        Args:
            manifest: The snapshot.
            uid: Who wants it.
            keep_s: Seconds it stays from then on, at the least; None until it is stopped.
            report: Told how far it is; what it raises ends the work, and nothing new is kept.

        Raises:
            NoSpace: It is larger than what may be kept.
            Busy: What is kept now is in use.
            Cancelled: It was stopped meanwhile, or the daemon ends.
            StoreDamaged: A file is gone or cut short.
            ZhcacheError: The disk failed.
        """
        now = self._clock.wall()
        wish = Wish(manifest.repo, manifest.commit, uid, _after(now, keep_s), now)
        kept = self._admit(wish, files_of(self._store, manifest))
        try:
            self._read(kept, report)
        except BaseException:
            if not kept.is_read:
                self._drop([kept])
            raise
        kept.wish.until = _after(self._clock.wall(), keep_s)
        kept.is_read = True
        self._write()
        return self._shown(kept)

    def stop(
        self, repo: RepoId, uid: int | None = None, has: Callable[[str], bool] = lambda _: True
    ) -> int:
        """Lets go what ``uid``, or anybody, wants of a repository; returns its bytes.

        ``has`` tells of a snapshot of it whether it is meant.
        """
        going = [
            kept
            for kept in self._all()
            if kept.wish.repo == str(repo)
            and has(kept.wish.commit)
            and uid in (None, kept.wish.uid)
        ]
        self._drop(going)
        if going:
            self._write()
        return sum(_union(going).values())

    def listing(self) -> list[Resident]:
        """Returns what is kept and what of it is really in memory; leases are not counted."""
        return [self._shown(kept) for kept in self._all()]

    def bytes(self) -> int:
        """Returns what is kept, each file counted once."""
        return sum(_union(self._all()).values())

    def restore(self) -> None:
        """Takes up what an earlier daemon kept; what cannot be is told in the log."""
        now, leased = self._clock.wall(), self._leased()
        found: list[_Kept] = []
        for wish in wishes.read(self._record):
            if self._is_over(wish, now) and (wish.repo, wish.commit) not in leased:
                continue
            try:
                manifest = self._store.resolve(parse_repo(wish.repo), wish.commit)
                kept = self._admit(wish, files_of(self._store, manifest))
            except ZhcacheError as error:
                log.warning("pages.not_restored", repo=wish.repo, error=str(error))
                continue
            # It was granted once, so that it is recorded on whatever happens meanwhile.
            kept.is_read = True
            found.append(kept)
        for kept in found:
            self._read_again(kept)

    def expire(self) -> None:
        """Lets go whose time is over, whose snapshot is gone, and what is too much by now."""
        every = [kept for kept in self._all() if kept.is_read]
        if not every:
            return
        now, leased = self._clock.wall(), self._leased()
        for kept in every:
            if (kept.wish.repo, kept.wish.commit) in leased:
                kept.wish.used = now
        going = [kept for kept in every if self._is_over(kept.wish, now)]
        going += self._too_many([kept for kept in every if kept not in going])
        if going:
            self._drop(going)
            self._write()

    def _too_many(self, kept: list[_Kept]) -> list[_Kept]:
        """Returns what must go since less may be kept now, the longest unused first."""
        decided = make_room([self._claim(one) for one in kept], {}, max(self._capacity(), 0))
        if isinstance(decided, Room):
            return [one for one in kept if one.wish.key in decided.gone]
        # In use or not, their pages may go: whoever has them mapped reads them from the disk then.
        return kept

    def refresh(self) -> None:
        """Reads again what the kernel took of what could not be locked, if there is room."""
        for kept in self._all():
            now = self._clock.monotonic()
            if not kept.is_read or now < kept.next_look or self._reader.are_locked(kept.files):
                continue
            missing = sum(kept.files.values()) - self._reader.cached(kept.files)
            kept.look_s = min(2 * kept.look_s, LOOK_MAX_S) if missing else LOOK_S
            kept.next_look = now + kept.look_s
            if missing and psutil.virtual_memory().available > missing + SPARE_BYTES:
                self._read_again(kept)

    def close(self) -> None:
        """Ends readings and locks. What is recorded is for the next daemon."""
        self._closed.set()
        self._reader.close()

    # --- what there is -----------------------------------------------------------------------

    def _all(self) -> list[_Kept]:
        with self._guard:
            return list(self._kept.values())

    def _leased(self) -> set[tuple[str, str]]:
        self._store.leases.prune_dead()
        return {(repo, commit) for repo, commit, _ in self._store.leases.counts()}

    def _is_over(self, wish: Wish, now: float) -> bool:
        expires = wish.expires(self._keep_alive_s)
        manifest = self._store.layout.manifest(parse_repo(wish.repo), wish.commit)
        return (expires is not None and expires <= now) or not manifest.exists()

    def _shown(self, kept: _Kept) -> Resident:
        return Resident(
            repo=kept.wish.repo,
            commit=kept.wish.commit,
            variant=None,
            device="cpu",
            bytes=sum(kept.files.values()),
            bytes_resident=self._reader.cached(kept.files),
            locked=self._reader.are_locked(kept.files),
            leases=0,
            uid=kept.wish.uid,
            expires=kept.wish.expires(self._keep_alive_s),
        )

    def _write(self) -> None:
        with self._guard:
            wishes.write(self._record, [k.wish for k in self._kept.values() if k.is_read])

    # --- coming and going --------------------------------------------------------------------

    def _admit(self, wish: Wish, wanted: dict[str, int]) -> _Kept:
        """Counts the snapshot as kept from now on, and lets others go for it."""
        capacity = max(self._capacity(), 0)
        with self._guard:
            others = [kept for kept in self._kept.values() if kept.wish.key != wish.key]
            match make_room([self._claim(kept) for kept in others], wanted, capacity):
                case TooLarge(size):
                    raise NoSpace(
                        "{repo} takes {bytes} bytes of memory, and {capacity} may be kept warm",
                        hint="raise residency.ram in config.toml; it can be used without, slower",
                        repo=wish.repo,
                        bytes=size,
                        capacity=capacity,
                    )
                case Full(holders):
                    raise Busy(
                        "no room in memory for {repo} while others are in use: {holders}",
                        hint="wait for them, or raise residency.ram in config.toml",
                        repo=wish.repo,
                        holders=", ".join(holders),
                    )
                case room:
                    going = [kept for kept in others if kept.wish.key in room.gone]
            for kept in going:
                del self._kept[kept.wish.key]
            kept = self._kept.setdefault(wish.key, _Kept(wish, wanted))
            kept.files = wanted
            kept.wish.until, kept.wish.since = wish.until, wish.since
        self._reader.unlock(_union(going))
        return kept

    def _claim(self, kept: _Kept) -> Claim:
        wish = kept.wish
        return Claim(
            key=wish.key,
            files=kept.files,
            used=max(wish.since, wish.used),
            is_forever=wish.until is None,
            holders=tuple(self._store.leases.holders(parse_repo(wish.repo), wish.commit)),
        )

    def _drop(self, going: Iterable[_Kept]) -> None:
        dropped = list(going)
        with self._guard:
            for kept in dropped:
                if self._kept.get(kept.wish.key) is kept:
                    del self._kept[kept.wish.key]
        self._reader.unlock(_union(dropped))

    def _read(self, kept: _Kept, report: Report) -> None:
        def step(done: int, total: int, note: str) -> None:
            self._check(kept)
            report(done, total, note)

        self._reader.read(kept.files, step)
        self._check(kept)

    def _check(self, kept: _Kept) -> None:
        with self._guard:
            is_wanted = self._kept.get(kept.wish.key) is kept
        if self._closed.is_set() or not is_wanted:
            raise Cancelled("{repo} was stopped meanwhile", repo=kept.wish.repo)

    def _read_again(self, kept: _Kept) -> None:
        try:
            self._read(kept, lambda *_: None)
        except (ZhcacheError, OSError) as error:
            log.warning("pages.not_read", repo=kept.wish.repo, error=str(error))


def _after(now: float, keep_s: float | None) -> float | None:
    return None if keep_s is None else now + keep_s


def _union(kept: Iterable[_Kept]) -> dict[str, int]:
    return {sha256: size for one in kept for sha256, size in one.files.items()}
