"""Collection: what may go, why the rest stays, and the going.

``plan`` is pure: a state in, a list of removals and reasons out, which makes ``--dry-run`` free
and truthful. ``Collector`` looks at the store before, and after the plan looks again at each blob
inside one IMMEDIATE transaction, because between the two a download may have begun to need it.

Ages are on the monotonic clock of one boot: a wall clock that jumps must not delete work.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from zhcache.protocol.messages import GcItem, GcReport
from zhcached.clock import Clock
from zhcached.config import StoreConfig
from zhcached.store import variants
from zhcached.store.blobs import Blobs
from zhcached.store.catalog import Catalog
from zhcached.store.failpoints import hit
from zhcached.store.layout import SCRAP, Layout
from zhcached.store.leases import Leases

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


class UnusedBlob(msgspec.Struct, frozen=True):
    """A blob that no manifest references."""

    sha256: str
    size: int
    age_s: float
    is_released: bool


class UsedBlobs(msgspec.Struct, frozen=True):
    """Blobs of a repository, or those of a variant that are its own, in sum; who leases them."""

    name: str
    bytes: int
    count: int
    holders: tuple[str, ...]


class Leftover(msgspec.Struct, frozen=True):
    """A partial download, or a damaged file set aside."""

    name: str
    size: int
    age_s: float
    is_active: bool = False


class GcState(msgspec.Struct, frozen=True):
    """Everything that a plan is made from. Times are seconds."""

    unused: tuple[UnusedBlob, ...]
    used: tuple[UsedBlobs, ...]
    held: dict[str, str]
    ingests: tuple[Leftover, ...]
    quarantine: tuple[Leftover, ...]
    grace_s: float
    keep_partial_s: float
    has_lost: bool = False


class GcPlan(msgspec.Struct, frozen=True):
    """What goes and what stays, each with its reason."""

    remove: tuple[GcItem, ...]
    keep: tuple[GcItem, ...]


def plan(state: GcState) -> GcPlan:
    """Decides. Kept things are one item for each reason, removed ones one each."""
    remove: list[GcItem] = []
    keep = [_used(use) for use in state.used]
    young: list[UnusedBlob] = []
    orphaned: list[UnusedBlob] = []
    held: dict[str, list[UnusedBlob]] = {}
    for blob in state.unused:
        if blob.sha256 in state.held:
            held.setdefault(state.held[blob.sha256], []).append(blob)
        elif blob.is_released:
            remove.append(_item("blob", blob.sha256, blob.size, "released: nothing needs it"))
        elif state.has_lost:
            orphaned.append(blob)
        elif blob.age_s >= state.grace_s:
            reason = "unused and older than the grace time"
            remove.append(_item("blob", blob.sha256, blob.size, reason))
        else:
            young.append(blob)
    for job, blobs in held.items():
        keep.append(_group(blobs, f"needed by the running job {job}"))
    if young:
        keep.append(_group(young, f"younger than the grace time of {state.grace_s:.0f} s"))
    if orphaned:
        keep.append(_group(orphaned, "a snapshot's manifest was lost: run `zhcache repair`"))
    _sort_leftovers(state, remove, keep)
    return GcPlan(tuple(remove), tuple(keep))


def _sort_leftovers(state: GcState, remove: list[GcItem], keep: list[GcItem]) -> None:
    limit = state.keep_partial_s
    for ingest in state.ingests:
        left = limit - ingest.age_s
        if ingest.is_active:
            keep.append(_item("ingest", ingest.name, ingest.size, "download in progress"))
        elif left > 0:
            reason = f"partial download, resumable for another {left:.0f} s"
            keep.append(_item("ingest", ingest.name, ingest.size, reason))
        else:
            reason = "partial download that nobody resumed"
            remove.append(_item("ingest", ingest.name, ingest.size, reason))
    for file in state.quarantine:
        left = limit - file.age_s
        if left > 0:
            reason = f"damaged, kept for a look for another {left:.0f} s"
            keep.append(_item("quarantine", file.name, file.size, reason))
        else:
            reason = "damaged, and looked at long enough"
            remove.append(_item("quarantine", file.name, file.size, reason))


def _used(use: UsedBlobs) -> GcItem:
    reason = f"used by {use.name}"
    if use.holders:
        reason += ", leased by " + ", ".join(use.holders)
    return GcItem(
        kind="blob",
        name=f"{use.count} blobs",
        bytes=use.bytes,
        reason=reason,
        used_by=[use.name],
    )


def _group(blobs: list[UnusedBlob], reason: str) -> GcItem:
    return _item("blob", f"{len(blobs)} blobs", sum(blob.size for blob in blobs), reason)


def _item(kind: str, name: str, size: int, reason: str) -> GcItem:
    return GcItem(kind=kind, name=name, bytes=size, reason=reason)  # pyright: ignore[reportArgumentType]


class Collector:
    """Looks, decides, removes. One collection at a time; the store sees to that.

    Args:
        layout: Where the store lies.
        config: ``grace`` and ``keep_partial``, in seconds.
        catalog: The index.
        blobs: The blobs.
        leases: Leases and holds.
        clock: For ages.
        boot: Name of this boot.
        is_active: Tells whether an ingest of that key is open.
        retire: Takes an ingest that is not open out of everyone's reach; returns where it is now.
    """

    def __init__(
        self,
        layout: Layout,
        config: StoreConfig,
        *,
        catalog: Catalog,
        blobs: Blobs,
        leases: Leases,
        clock: Clock,
        boot: str,
        is_active: Callable[[str], bool],
        retire: Callable[[str], Path | None],
        has_lost: Callable[[], bool],
    ) -> None:
        self._layout = layout
        self._config = config
        self._catalog = catalog
        self._blobs = blobs
        self._leases = leases
        self._clock = clock
        self._boot = boot
        self._is_active = is_active
        self._retire = retire
        self._has_lost = has_lost
        self._opened_wall = clock.wall()
        self._opened_mono = clock.monotonic()

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
