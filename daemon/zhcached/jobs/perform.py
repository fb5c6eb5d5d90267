"""What each kind of job does, by name. One match, no registry."""

from __future__ import annotations

from collections import defaultdict

from zhcache.errors import IntegrityError, UsageError
from zhcache.protocol.messages import VerifyResult
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.jobs import state
from zhcached.jobs.arrivals import Arrivals
from zhcached.jobs.imports import take_in
from zhcached.jobs.prefetch import Prefetcher
from zhcached.jobs.queue import Control
from zhcached.jobs.warm import make_warm
from zhcached.residency.door import Residency
from zhcached.store.store import Store


class Performer:
    """Does jobs, each in the thread it is called in.

    Args:
        store: Where the snapshots are.
        prefetcher: Fetches them.
        residency: Keeps them warm.
    """

    def __init__(self, store: Store, prefetcher: Prefetcher, residency: Residency) -> None:
        self._store = store
        self._prefetcher = prefetcher
        self._residency = residency

    def perform(self, record: state.Record, control: Control) -> state.Done:
        """Does one job in the calling thread.

        Raises:
            ZhcacheError: As the work does; a failed verification carries its report.
        """
        match record.task:
            case state.Prefetch(request):
                return self._prefetcher.run(request, record, control)
            case state.Verify(request):
                repo = parse_repo(request.repo) if request.repo else None
                return self._verify(repo, control)
            case state.Repair():
                return self._repair(record, control)
            case state.Import():
                return self._import(record, control)
            case state.Warm():
                return make_warm(self._residency, record, control)

    def _import(self, record: state.Record, control: Control) -> state.Done:
        if not isinstance(control.resource, Arrivals):
            raise UsageError(
                "the daemon was restarted before {repo} was imported",
                hint="start the import again; what was taken in is not stored twice",
                repo=record.repo,
            )
        request = control.resource.request
        control.enter(state.Running(sum(file.size for file in request.files)))
        return take_in(self._store, control.resource, record, control)

    def _verify(self, repo: RepoId | None, control: Control) -> state.Done:
        control.enter(state.Running())
        found = self._hash(repo, control)
        if found.damaged or found.missing:
            raise _Damaged(found)
        return state.Done(verify=found)

    def _repair(self, record: state.Record, control: Control) -> state.Done:
        """Rebuilds the index from disk, re-hashes all, then refetches what is lost."""
        control.enter(state.Running())
        self._store.rebuild()
        found = self._hash(None, control)
        found.rebuilt = True
        lost: dict[tuple[RepoId, str], set[str]] = defaultdict(set)
        for repo, commit, path, _ in self._store.holes():
            lost[repo, commit].add(path)
        for (repo, commit), paths in lost.items():
            control.check()
            manifest = self._store.manifests.read(repo, commit)
            self._prefetcher.refetch(manifest, paths, record.id, control)
            found.refetched += len(paths)
        for repo, ref, _ in self._store.lost():
            control.check()
            self._prefetcher.restore(repo, ref, record, control)
            found.refetched += 1
        found.missing = []
        return state.Done(verify=found)

    def _hash(self, repo: RepoId | None, control: Control) -> VerifyResult:
        done = 0

        def count(step: int) -> None:
            nonlocal done
            done += step
            control.progress = state.Progress(bytes_done=done)

        return self._store.verify(repo, count, control.cancelled)


class _Damaged(IntegrityError):
    """A verification that found damage; carries its report."""

    def __init__(self, found: VerifyResult) -> None:
        self.verify = found
        names = {user for blob in found.damaged for user in blob.used_by} | set(found.missing)
        super().__init__(
            "{count} files are damaged or missing; they concern {names}",
            hint="zhcache repair fetches them again",
            count=len(found.damaged) + len(found.missing),
            names=", ".join(sorted(names)) or "nothing that is in use",
        )
