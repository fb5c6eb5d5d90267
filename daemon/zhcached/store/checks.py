"""The bytes read again: which blobs are still what their names say, and what is missing."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Final

from zhcache.errors import Cancelled, NotFound
from zhcache.protocol.messages import DamagedBlob, VerifyResult
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.store import files, listing, variants
from zhcached.store.blobs import Identity
from zhcached.store.context import Context
from zhcached.store.digest import Promise
from zhcached.store.recovery import Recovery

# What the disk says of bytes it has lost, and the kernel of a link or a folder in a blob's place.
# Any other error, no descriptor left for one, says nothing about the blob.
_DAMAGE: Final = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ELOOP, errno.EISDIR)


class Checks:
    """Checks one store. Thread-safe; made by ``Store``.

    ``on_damaged`` is called with a blob's name before the blob is set aside, ``on_forgotten`` once
    a blob has no row any more.

    Args:
        context: The store's.
        recovery: Sets damaged manifests aside.
    """

    def __init__(self, context: Context, recovery: Recovery) -> None:
        self._layout = context.layout
        self._catalog = context.catalog
        self._blobs = context.blobs
        self._manifests = context.manifests
        self._clock = context.clock
        self._recovery = recovery
        self._damaged: dict[str, str] = {}
        self.on_damaged: Callable[[str], object] = lambda _: None
        self.on_forgotten: Callable[[], object] = lambda: None

    def damage(self) -> list[str]:
        """Returns what was found wrong with blobs that have not come back since."""
        found = list(self._damaged.items())
        return [told for sha256, told in found if self._blobs.identity(sha256) is None]

    def verify(
        self,
        repo: RepoId | None = None,
        progress: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> VerifyResult:
        """Reads every blob, or every blob of a repository; what changed goes to quarantine.

        Args:
            repo: Only this repository's, or all.
            progress: Called with the bytes read in each step.
            stop: Ends the run when set.

        Raises:
            NotFound: The repository is not here.
            Cancelled: ``stop`` was set.
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        if repo is not None and not listing.commits(self._catalog, repo):
            raise NotFound("{repo} is not in the store", repo=repo)
        result = VerifyResult(checked=0, bytes=0)

        def step(count: int) -> None:
            if stop is not None and stop.is_set():
                raise Cancelled("the check was cancelled")
            result.bytes += count
            if progress is not None:
                progress(count)

        for sha256, size in self._to_read(repo):
            step(0)
            verdict = self.recheck(sha256, step)
            result.checked += verdict is not None
            if verdict is False:
                used_by = self._users(sha256)
                result.damaged.append(DamagedBlob(sha256=sha256, size=size, used_by=used_by))
        result.missing = self._missing(repo)
        return result

    def recheck(self, sha256: str, progress: Callable[[int], None] | None = None) -> bool | None:
        """Reads one blob: True if it is sound, False if it was not and is now in quarantine.

        Returns:
            None if there is no such blob; its row is then gone as well.

        Raises:
            OSError: It could not be read, which says nothing about its bytes.
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        before = self._blobs.identity(sha256)
        told = f"blob {sha256} was damaged and is in quarantine"
        try:
            is_sound = self._blobs.hash(sha256, progress=progress).sha256 == sha256
        except FileNotFoundError:
            self._forget(sha256)
            return None
        except OSError as error:
            if error.errno not in _DAMAGE:
                with files.disk_errors(self._blobs.path(sha256)):
                    raise
            told = f"blob {sha256}: {error.strerror}"
            is_sound = False
        if is_sound:
            if before is not None:
                self._settle(sha256, before)
            return True
        self.on_damaged(sha256)
        self._blobs.set_aside(sha256)
        self._forget(sha256)
        self._damaged[sha256] = told
        return False

    def _settle(self, sha256: str, identity: Identity) -> None:
        """Records what was just read. Of a blob collected meanwhile there is no row to touch."""
        with self._catalog.write() as db:
            db.conn.execute(
                "UPDATE blobs SET suspect=0, verified_at=?, size=?, inode=?, mtime_ns=?,"
                " ctime_ns=? WHERE sha256=?",
                (
                    self._clock.wall(),
                    identity.size,
                    identity.inode,
                    identity.mtime_ns,
                    identity.ctime_ns,
                    sha256,
                ),
            )

    def _forget(self, sha256: str) -> None:
        with self._catalog.write() as db:
            db.conn.execute("DELETE FROM blobs WHERE sha256=?", (sha256,))
        self.on_forgotten()

    def _to_read(self, repo: RepoId | None) -> list[tuple[str, int]]:
        if repo is None:
            rows = self._catalog.rows("SELECT sha256, size FROM blobs ORDER BY sha256")
        else:
            rows = self._catalog.rows(
                "SELECT DISTINCT b.sha256, b.size FROM blobs b JOIN files f ON f.sha256=b.sha256"
                " JOIN snapshots s ON s.id=f.snapshot WHERE s.repo=? ORDER BY 1",
                (str(repo),),
            )
        return [(str(sha256), int(size)) for sha256, size in rows]

    def _users(self, sha256: str) -> list[str]:
        """Returns the repositories that have a blob; where only variants have it, those."""
        rows = self._catalog.rows(
            "SELECT DISTINCT s.repo, s.derived_of, s.variant FROM files f JOIN snapshots s"
            " ON s.id=f.snapshot WHERE f.sha256=? ORDER BY 1, 2, 3",
            (sha256,),
        )
        owners = dict.fromkeys(str(repo) for repo, of, _ in rows if of is None)
        made = [variants.label(repo, of, v) for repo, of, v in rows if of and repo not in owners]
        return [*owners, *made]

    def overdue(self, before: float) -> str | None:
        """Returns the blob that was read longest ago, if that was before a wall-clock time.

        Raises:
            StoreDamaged: The index is damaged.
        """
        rows = self._catalog.rows(
            "SELECT sha256 FROM blobs WHERE verified_at<? ORDER BY verified_at LIMIT 1", (before,)
        )
        return str(rows[0][0]) if rows else None

    def lost(self, repo: RepoId | None = None) -> list[tuple[RepoId, str, str]]:
        """Returns (repository, ref, commit) of each ref whose snapshot's manifest is gone.

        Removal drops refs and variants before manifests, so that one is left by damage alone. Of
        what only a variant was made of, the commit stands for a ref.
        """
        refs = [
            (held, ref, commit)
            for held in self._manifests.repos()
            if repo is None or held == repo
            for ref, commit in self._manifests.refs(held).items()
            if not self._layout.manifest(held, commit).exists()
        ]
        named = {(str(held), commit) for held, _, commit in refs}
        bases = {(name, of) for name, of, _ in variants.orphaned(self._catalog, repo)} - named
        return refs + [(parse_repo(name), of, of) for name, of in sorted(bases)]

    def holes(self, repo: RepoId | None = None) -> list[tuple[RepoId, str, str, Promise]]:
        """Returns (repository, commit, path, promise) of each file whose bytes must be refetched.

        Those of variants are not among them: no source has them.

        Raises:
            StoreDamaged: The index is damaged.
        """
        rows = self._catalog.rows(
            "SELECT s.repo, s.commit_hash, f.path, f.size, f.sha256, f.git_sha1 FROM files f"
            " JOIN snapshots s ON s.id=f.snapshot WHERE s.derived_of IS NULL"
            " AND (? IS NULL OR s.repo=?) AND NOT EXISTS"
            " (SELECT 1 FROM blobs b WHERE b.sha256=f.sha256) ORDER BY 1, 2, 3",
            (str(repo) if repo else None, str(repo) if repo else None),
        )
        return [
            (parse_repo(name), commit, path, Promise(size, sha256, git_sha1))
            for name, commit, path, size, sha256, git_sha1 in rows
        ]

    def _missing(self, repo: RepoId | None) -> list[str]:
        for held, commit, _ in self._manifests.list():
            if repo is None or held == repo:
                self._recovery.read(held, commit)
        gone = [f"{name} {path}" for name, _, path, _ in self.holes(repo)]
        gone += [
            f"{variants.label(str(held), of, name)} {path}"
            for held, of, name, commit in variants.broken(self._catalog, repo)
            for path in listing.holes_of(self._catalog, held, commit)
        ]
        return gone + [f"{held} {ref}: its manifest" for held, ref, _ in self.lost(repo)]
