"""Collection: looks at the store, has ``gc.plan`` decide, removes.

After the plan each blob is looked at again inside one IMMEDIATE transaction, because between the
two a download may have begun to need it.

Ages are on the monotonic clock of one boot: a wall clock that jumps must not delete work.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from zhcache.protocol.messages import GcItem, GcReport
from zhcached.store import variants
from zhcached.store.context import Context
from zhcached.store.failpoints import hit
from zhcached.store.gc import GcPlan, GcState, Leftover, UnusedBlob, UsedBlobs, plan
from zhcached.store.layout import SCRAP

BATCH: Final = 64
_UNUSED: Final = (
    "SELECT sha256, size, released, boot, mono FROM blobs b WHERE NOT EXISTS"
    " (SELECT 1 FROM files f WHERE f.sha256 = b.sha256)"
)
# What a variant shares with its repository's own snapshots counts as theirs.
_USED: Final = (
    "SELECT repo, derived_of, variant, SUM(size), COUNT(*) FROM"
    " (SELECT DISTINCT s.repo, s.derived_of, s.variant, f.sha256, f.size FROM files f"
    " JOIN snapshots s ON s.id = f.snapshot WHERE s.derived_of IS NULL OR NOT EXISTS"
    " (SELECT 1 FROM files g JOIN snapshots t ON t.id = g.snapshot WHERE g.sha256 = f.sha256"
    " AND t.repo = s.repo AND t.derived_of IS NULL))"
    " GROUP BY repo, derived_of, variant ORDER BY repo, derived_of, variant"
)
_LEASED: Final = (
    "SELECT l.repo, s.derived_of, s.variant, l.uid, l.pid FROM leases l LEFT JOIN snapshots s"
    " ON s.repo = l.repo AND s.commit_hash = l.commit_hash"
)


class Collector:
    """Looks, decides, removes. One collection at a time; the store sees to that.

    Args:
        context: The store's, with ``grace`` and ``keep_partial`` in seconds.
        is_active: Tells whether an ingest of that key is open.
        retire: Takes an ingest that is not open out of everyone's reach; returns where it is now.
        has_lost: Tells whether a snapshot's manifest is gone, so that what it names is not known.
    """

    def __init__(
        self,
        context: Context,
        *,
        is_active: Callable[[str], bool],
        retire: Callable[[str], Path | None],
        has_lost: Callable[[], bool],
    ) -> None:
        self._layout = context.layout
        self._config = context.config
        self._catalog = context.catalog
        self._blobs = context.blobs
        self._leases = context.leases
        self._clock = context.clock
        self._boot = context.boot
        self._is_active = is_active
        self._retire = retire
        self._has_lost = has_lost
        self._opened_wall = context.clock.wall()
        self._opened_mono = context.clock.monotonic()

    def collect(self, *, dry_run: bool) -> GcReport:
        """Frees what may go.

        Raises:
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        chosen = plan(self.look())
        hit("gc.after_plan")
        removed = list(chosen.remove) if dry_run else self.execute(chosen)
        freed = sum(item.bytes for item in removed)
        return GcReport(removed=removed, kept=list(chosen.keep), bytes_freed=freed, dry_run=dry_run)

    def look(self) -> GcState:
        """Returns the store as a plan needs it."""
        unused = tuple(
            UnusedBlob(str(sha256), int(size), self._age(boot, mono), bool(released))
            for sha256, size, released, boot, mono in self._catalog.rows(_UNUSED)
        )
        now = self._steady_now()
        return GcState(
            unused=unused,
            used=self._used(),
            held=self._leases.held(),
            ingests=tuple(self._leftovers(self._layout.ingests, now)),
            quarantine=tuple(self._leftovers(self._layout.quarantine, now)),
            grace_s=self._config.grace,
            has_lost=self._has_lost(),
            keep_partial_s=self._config.keep_partial,
        )

    def _used(self) -> tuple[UsedBlobs, ...]:
        leased: dict[str, list[str]] = {}
        for repo, of, variant, uid, pid in self._catalog.rows(_LEASED):
            name = variants.label(repo, of, variant) if of else str(repo)
            leased.setdefault(name, []).append(f"process {pid} of uid {uid}")
        used: list[UsedBlobs] = []
        for repo, of, variant, size, number in self._catalog.rows(_USED):
            name = variants.label(repo, of, variant) if of else str(repo)
            used.append(UsedBlobs(name, int(size), int(number), tuple(leased.get(name, ()))))
        return tuple(used)

    def _age(self, boot: str, mono: float) -> float:
        """Seconds a blob is known; one of another boot is known since this daemon came up."""
        since = mono if boot == self._boot else self._opened_mono
        return self._clock.monotonic() - since

    def _steady_now(self) -> float:
        """The wall clock as it would stand if nobody had set it since this daemon came up."""
        return self._opened_wall + self._clock.monotonic() - self._opened_mono

    def _leftovers(self, folder: Path, now: float) -> Iterable[Leftover]:
        try:
            with os.scandir(folder) as entries:
                names = sorted(e.name for e in entries if not e.name.startswith(SCRAP))
        except FileNotFoundError:
            return
        for name in names:
            size, touched = _extent(folder / name)
            is_active = folder == self._layout.ingests and self._is_active(name)
            yield Leftover(name, size, now - touched, is_active)

    def execute(self, chosen: GcPlan) -> list[GcItem]:
        """Removes what the plan says and what still holds; returns what went.

        Raises:
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        removed: list[GcItem] = []
        blobs = [item for item in chosen.remove if item.kind == "blob"]
        for start in range(0, len(blobs), BATCH):
            removed += self._unlink(blobs[start : start + BATCH])
        for item in chosen.remove:
            if item.kind == "quarantine":
                path = self._layout.quarantine / item.name
            elif item.kind == "ingest":
                path = self._retire(item.name)
            else:
                continue
            if path is not None:
                _delete(path)
                removed.append(item)
        return removed

    def _unlink(self, items: list[GcItem]) -> list[GcItem]:
        gone: list[GcItem] = []
        has_lost = self._has_lost()
        with self._catalog.write() as db:
            for item in items:
                row = db.conn.execute(f"{_UNUSED} AND b.sha256=?", (item.name,)).fetchone()
                if row is None:
                    continue
                may_age = not has_lost and self._is_old(str(row[3]), float(row[4]))
                if not (bool(row[2]) or may_age):
                    continue
                # Files before rows: a row without a file is seen at the next look at it; a file
                # without a row would come back as a new blob and live another grace time.
                if self._blobs.unlink_unless(item.name, self._leases.held):
                    hit("gc.after_unlink")
                    db.conn.execute("DELETE FROM blobs WHERE sha256=?", (item.name,))
                    gone.append(item)
            hit("gc.after_rows")
        return gone

    def _is_old(self, boot: str, mono: float) -> bool:
        return self._age(boot, mono) >= self._config.grace


def _extent(path: Path) -> tuple[int, float]:
    """Returns the bytes on disk and the last change of a file or of a folder's files."""
    try:
        found = path.lstat()
        if not path.is_dir() or path.is_symlink():
            return found.st_blocks * 512, found.st_mtime
        inner = [entry.stat(follow_symlinks=False) for entry in os.scandir(path)]
    except FileNotFoundError:
        return 0, 0.0
    newest = max((s.st_mtime for s in inner), default=found.st_mtime)
    return sum(s.st_blocks for s in inner) * 512, newest


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
