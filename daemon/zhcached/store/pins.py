"""Pins: repositories that are not removed until whoever pinned them says so."""

from __future__ import annotations

from zhcache.errors import NotFound, NotPermitted
from zhcache.protocol.names import RepoId
from zhcached.store import listing
from zhcached.store.context import Context


class Pins:
    """Pins and unpins. Thread-safe; made by ``Store``."""

    def __init__(self, context: Context) -> None:
        self._catalog = context.catalog
        self._manifests = context.manifests
        self._writing = context.writing

    def pin(self, repo: RepoId, uid: int) -> None:
        """Keeps a repository from being removed until the user who pinned it first unpins it.

        Raises:
            NotFound: It is not here.
        """
        with self._writing:
            if not listing.commits(self._catalog, repo):
                raise NotFound("{repo} is not in the store", repo=repo)
            self._manifests.pin(repo, uid)
            with self._catalog.write() as db:
                db.conn.execute("INSERT OR IGNORE INTO pins VALUES (?)", (str(repo),))

    def unpin(self, repo: RepoId, uid: int, *, may_all: bool) -> None:
        """Ends ``pin``; does nothing to a repository that is not pinned.

        Args:
            repo: The repository.
            uid: Who asks. Anybody may end a pin of which it is not known who made it.
            may_all: May end the pins of others too.

        Raises:
            NotPermitted: Another user pinned it.
        """
        with self._writing:
            if not may_all and self._manifests.pinner(repo) not in (None, uid):
                raise NotPermitted(
                    "{repo} was pinned by another user",
                    hint="ask uid {owner} or an administrator to unpin it",
                    repo=repo,
                    owner=self._manifests.pinner(repo),
                )
            self._manifests.unpin(repo)
            with self._catalog.write() as db:
                db.conn.execute("DELETE FROM pins WHERE repo=?", (str(repo),))
