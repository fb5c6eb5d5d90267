"""Letting a snapshot go, so that a crash at any step leaves something unseen, never broken."""

from __future__ import annotations

from zhcache.errors import Busy, NotPermitted, UsageError
from zhcache.protocol.messages import Removed
from zhcache.protocol.names import RepoId
from zhcached.store.context import Context
from zhcached.store.failpoints import hit
from zhcached.store.recovery import Recovery
from zhcached.store.sqlite import Database


class Removal:
    """Removes snapshots. Called under the store's writers' lock; made by ``Store``."""

    def __init__(self, context: Context, recovery: Recovery) -> None:
        self._catalog = context.catalog
        self._leases = context.leases
        self._manifests = context.manifests
        self._view = context.view
        self._recovery = recovery

    def mark(
        self, repo: RepoId, commits: list[str], uid: int | None = None, *, may_all: bool = True
    ) -> None:
        """Decides in one transaction; ``grant`` refuses marked snapshots, so none slips in.

        Raises:
            NotPermitted: Not ``may_all``, and somebody else than ``uid`` brought one here.
            Busy: Somebody leases one; the message names who.
            UsageError: The repository is pinned.
        """
        with self._catalog.write() as db:
            if not may_all:
                self._check_owners(db, repo, commits, uid)
            if db.conn.execute("SELECT 1 FROM pins WHERE repo=?", (str(repo),)).fetchone():
                raise UsageError(
                    "{repo} is pinned", hint="run `zhcache unpin {repo}` first", repo=repo
                )
            self._leases.prune_dead()
            holders = [text for c in commits for text in self._leases.holders(repo, c)]
            if holders:
                raise Busy(
                    "{repo} is in use by {holders}",
                    hint="it can be removed once they end",
                    repo=repo,
                    holders=", ".join(sorted(set(holders))),
                )
            for commit in commits:
                db.conn.execute(
                    "UPDATE snapshots SET removing=1 WHERE repo=? AND commit_hash=?",
                    (str(repo), commit),
                )

    def _check_owners(
        self, db: Database, repo: RepoId, commits: list[str], uid: int | None
    ) -> None:
        sql = "SELECT commit_hash, uid FROM snapshots WHERE repo=? AND uid IS NOT ?"
        others = {
            str(commit): int(owner) for commit, owner in db.conn.execute(sql, (str(repo), uid))
        }
        for commit in commits:
            if commit in others:
                raise NotPermitted(
                    "{repo} was brought here by another user",
                    hint="ask uid {owner} or an administrator to remove it",
                    repo=repo,
                    owner=others[commit],
                )

    def run(
        self,
        repo: RepoId,
        commits: list[str],
        made: dict[str, str],
        uid: int | None,
        *,
        may_all: bool,
    ) -> Removed:
        """Removes snapshots and variants, or nothing.

        Args:
            repo: The repository.
            commits: Its snapshots that go.
            made: Variants that go: own commit -> name.
            uid: Who asks.
            may_all: May remove what others brought here too.

        Raises:
            ZhcacheError: As ``mark``.
        """
        # Variants first: a crash never leaves one without what it was made of.
        order = [*made, *commits]
        self.mark(repo, order, uid, may_all=may_all)
        hit("remove.after_mark")
        released = sum(self.carry_out(repo, commit) for commit in order)
        names = sorted(set(made.values()))
        return Removed(repo=str(repo), commits=commits, bytes_released=released, variants=names)

    def carry_out(self, repo: RepoId, commit: str) -> int:
        """Removes one marked snapshot; returns the bytes nothing else uses."""
        for ref, target in self._manifests.refs(repo).items():
            if target == commit:
                self._view.remove_ref(repo, ref)
                self._manifests.remove_ref(repo, ref)
        with self._catalog.write() as db:
            db.conn.execute("DELETE FROM refs WHERE repo=? AND commit_hash=?", (str(repo), commit))
        hit("remove.after_refs")
        return self._recovery.finish_removal(repo, commit)
