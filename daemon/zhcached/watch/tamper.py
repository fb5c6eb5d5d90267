"""The guard over the store's own files: what others do to blobs and to the view.

inotify does not say who did it. What we do ourselves leaves blob and index in agreement, so that
agreement is asked for a moment after each notice, and whatever disagrees is read again at once.
A slow look at every inode finds what no notice tells of: writes through a hard link elsewhere,
and notices that were lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from zhcache.errors import Cancelled, IntegrityError, UsageError, ZhcacheError
from zhcache.protocol.names import RepoId, is_sha256
from zhcached.store import listing
from zhcached.store.blobs import Identity
from zhcached.store.store import Store
from zhcached.watch.notices import TOUCHED, Group, NoNotices, Notices
from zhcached.watch.tree import TooMuch, look_at

REST_S = 0.5
"""From a notice to the look: our own commits are recorded by then."""

SWEEP_S = 60.0
MAX_FINDINGS = 100

log = structlog.get_logger()


class Guard:
    """Watches blobs and view. Lives on the event loop.

    Args:
        store: Whose files.
        notices: Where the kernel tells of changes.
        lost: Called in a thread with each blob that is gone or was damaged.
        rest_s: From a notice to the look.
        sweep_s: Between two looks at every inode.
    """

    def __init__(
        self,
        store: Store,
        notices: Notices,
        lost: Callable[[str], None],
        *,
        rest_s: float = REST_S,
        sweep_s: float = SWEEP_S,
    ) -> None:
        self._store = store
        self._notices = notices
        self._on_lost = lost
        self._rest_s = rest_s
        self._sweep_s = sweep_s
        self._loop = asyncio.get_running_loop()
        self._told = asyncio.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._blobs: set[str] = set()
        self._repos: set[str] = set()
        self._strays: set[str] = set()
        self._must_sweep = False
        # Once at the start: the view may have been altered while no daemon watched it.
        self._must_mend = True
        self._blob_group: Group | None = None
        self._view_group: Group | None = None
        self._lost: dict[str, IntegrityError] = {}
        self._altered: dict[str, IntegrityError] = {}
        self.watching = asyncio.Event()
        """Set once notices are asked for."""

    def findings(self) -> list[IntegrityError]:
        """Returns what others did and what has not been made good, for ``doctor``."""
        for sha256 in [name for name in self._lost if self._store.blobs.has(name)]:
            del self._lost[sha256]
        return [*self._lost.values(), *self._altered.values()]

    async def run(self) -> None:
        """Goes on until cancelled."""
        try:
            await asyncio.to_thread(self._listen)
            self.watching.set()
            while True:
                try:
                    # Not wait_for: in Python 3.11 it may swallow the cancellation that ends us.
                    async with asyncio.timeout(self._sweep_s):
                        await self._told.wait()
                    await asyncio.sleep(self._rest_s)
                except TimeoutError:
                    self._must_sweep = True
                self._told.clear()
                looking = asyncio.create_task(asyncio.to_thread(self._look))
                try:
                    await asyncio.shield(looking)
                except asyncio.CancelledError:
                    # The store is closed after us: nobody may read in it then.
                    self._stopping.set()
                    await looking
                    raise
        finally:
            for group in (self._blob_group, self._view_group):
                if group is not None:
                    await asyncio.to_thread(group.close)

    # The steps below run in threads.

    def _listen(self) -> None:
        try:
            self._blob_group = self._notices.group(TOUCHED, self._tell_blob, self._overflow)
            with_blobs = self._store.layout.blobs
            self._blob_group.follow(str(path) for path in with_blobs.iterdir())
            self._view_group = self._notices.group(TOUCHED, self._tell_view, self._overflow)
            self._follow_view()
        except NoNotices as error:
            log.warning("guard.polling", reason=error.message)

    def _follow_view(self) -> None:
        if self._view_group is None:
            return
        hub = self._store.layout.hub
        try:
            tree = look_at(hub)
            self._view_group.follow(str(hub / path) for path in tree.folders)
        except NoNotices as error:
            log.warning("guard.polling", reason=error.message)
            self._view_group = None
        except (TooMuch, ZhcacheError) as error:
            log.warning("guard.view_unwatched", reason=str(error))

    def _tell_blob(self, folder: str, name: str) -> None:
        with self._lock:
            if is_sha256(name):
                self._blobs.add(name)
            elif not name:
                self._must_sweep = True  # the folder itself was moved or removed
            else:
                return
        self._wake()

    def _tell_view(self, folder: str, name: str) -> None:
        hub = self._store.layout.hub
        below = Path(folder).relative_to(hub).parts
        with self._lock:
            if below or name:
                self._repos.add(below[0] if below else name)
            else:
                self._must_sweep = self._must_mend = True  # the view itself was moved or removed
        self._wake()

    def _overflow(self) -> None:
        log.warning("guard.overflow")
        self._must_sweep = self._must_mend = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._told.set)

    def _look(self) -> None:
        """Judges what was touched, and says which blobs are lost."""
        with self._lock:
            blobs, self._blobs = self._blobs, set()
            repos, self._repos = self._repos, set()
            sweeps, self._must_sweep = self._must_sweep, False
            mends_all = sweeps and (self._must_mend or self._view_group is None)
            self._must_mend = self._must_mend and not mends_all
        try:
            if sweeps:
                blobs |= self._disagreeing()
            if mends_all:
                repos |= {repo.folder for repo in self._store.manifests.repos()}
            for sha256 in sorted(blobs):
                self._check()
                if self._judge(sha256):
                    self._on_lost(sha256)
            for name in sorted(repos):
                self._mend(name)
            if repos:
                self._follow_view()
        except Cancelled:
            pass
        except Exception:
            # A defect, or a disk that fails: neither ends the guard.
            log.exception("guard.failed")

    def _check(self, _count: int = 0) -> None:
        if self._stopping.is_set():
            raise Cancelled("the daemon stops")

    def _disagreeing(self) -> set[str]:
        """Returns the blobs whose inode is not as it was recorded, and those nobody recorded."""
        on_disk = dict(self._store.blobs.list())
        rows = self._store.catalog.rows(
            "SELECT sha256, size, inode, mtime_ns, ctime_ns, suspect FROM blobs"
        )
        known: set[str] = set()
        wrong: set[str] = set()
        for name, size, inode, mtime, ctime, is_suspect in rows:
            known.add(name)
            # What is in doubt since a crash is read when it is wanted, not all at once.
            if not is_suspect and on_disk.get(name) != Identity(size, inode, mtime, ctime):
                wrong.add(name)
        return wrong | (on_disk.keys() - known - self._strays)

    def _judge(self, sha256: str) -> bool:
        """Reads a blob that is not as it was recorded; tells whether it is lost."""
        recorded = listing.recorded(self._store.catalog, sha256)
        identity = self._store.blobs.identity(sha256)
        if recorded is None and identity is None:
            return False  # collected
        if recorded is not None and recorded == (identity, False):
            return False  # committed
        users = self._users(sha256)
        if identity is None and not users:
            # A collection that is under way unlinks before its rows are gone; nobody misses it.
            return False
        verdict = self._store.checks.recheck(sha256, self._check)
        if verdict:
            log.info("guard.touched", sha256=sha256, used_by=users)
            if recorded is None:
                self._strays.add(sha256)
            return False
        if verdict is False:
            log.error("guard.damaged", sha256=sha256, used_by=users)
            return bool(users)
        if recorded is not None and users:
            log.error("guard.missing", sha256=sha256, used_by=users)
            self._note(
                self._lost,
                sha256,
                IntegrityError(
                    "blob {sha256} was taken out of the store by another program; it concerns"
                    " {names}",
                    hint="`zhcache repair` fetches it again; see who else writes in the store",
                    sha256=sha256,
                    names=", ".join(users) or "-",
                ),
            )
        return recorded is not None and bool(users)

    def _users(self, sha256: str) -> list[str]:
        rows = self._store.catalog.rows(
            "SELECT DISTINCT s.repo FROM files f JOIN snapshots s ON s.id=f.snapshot"
            " WHERE f.sha256=? ORDER BY 1",
            (sha256,),
        )
        return [str(row[0]) for row in rows]

    def _mend(self, name: str) -> None:
        try:
            repo = RepoId.from_folder(name)
        except UsageError:
            return
        mended = self._store.mending.mend(repo)
        if mended:
            log.error("guard.view_mended", repo=str(repo), paths=mended[:10], count=len(mended))
            self._note(
                self._altered,
                name,
                IntegrityError(
                    "{count} links to {repo} were altered by another program and were mended",
                    hint="see who else writes in {folder}",
                    count=len(mended),
                    repo=repo,
                    folder=self._store.layout.hub / name,
                ),
            )

    def _note(self, notes: dict[str, IntegrityError], key: str, error: IntegrityError) -> None:
        if key in notes or len(notes) < MAX_FINDINGS:
            notes[key] = error
