"""What branches and tags mean here: record, view and row; the record is the truth."""

from __future__ import annotations

from collections.abc import Callable

from zhcache.protocol.names import RepoId
from zhcached.store.context import Context
from zhcached.store.failpoints import hit


class Refs:
    """Moves refs. Made by ``Store``.

    Args:
        context: The store's.
        whole: Raises if a snapshot is not here whole.
    """

    def __init__(self, context: Context, whole: Callable[[RepoId, str], object]) -> None:
        self._catalog = context.catalog
        self._manifests = context.manifests
        self._view = context.view
        self._writing = context.writing
        self._whole = whole

    def move(self, repo: RepoId, ref: str, commit: str) -> None:
        """Points a ref at a snapshot, under the writers' lock, which the caller holds."""
        self._manifests.set_ref(repo, ref, commit)
        hit("publish.after_ref")
        self._view.set_ref(repo, ref, commit)
        with self._catalog.write() as db:
            db.conn.execute("INSERT OR REPLACE INTO refs VALUES (?,?,?)", (str(repo), ref, commit))

    def advance(self, repo: RepoId, ref: str, commit: str, *, was: str | None) -> bool:
        """Points a ref at a snapshot that is here, unless somebody moved it meanwhile.

        Args:
            repo: The repository.
            ref: A branch or tag.
            commit: What it is to mean.
            was: What it meant when that was decided, None if there was no such ref.

        Returns:
            Whether it means ``commit`` now.

        Raises:
            NotFound: No such snapshot here.
            IntegrityError: Its bytes were found damaged.
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        with self._writing:
            self._whole(repo, commit)
            if self._manifests.refs(repo).get(ref) not in (was, commit):
                return False
            self.move(repo, ref, commit)
            return True
